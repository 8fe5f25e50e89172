"""Readers that turn files and frames of known vendors into Bars."""
