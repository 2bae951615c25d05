"""Measurements; each module prints ratios from one run on one machine."""
