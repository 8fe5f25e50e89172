"""Gymnasium environments over the account."""
