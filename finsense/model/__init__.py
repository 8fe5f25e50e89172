"""What is deployed: policies and bundles."""
