"""Side-by-side measurements of finsense and its peers: `python -m benchmarks`."""
