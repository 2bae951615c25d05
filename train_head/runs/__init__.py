"""Runs: folders with one fitted head each."""
