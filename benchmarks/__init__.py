"""Benchmarks. Each module prints ratios of times measured in one run on one machine."""
