"""Learners: each trains on an experiment and exports a bundle."""
