"""Benchmarks of time, memory and size, and of the coverage of confidence intervals (`selection`).

Ratios of times compare times that were measured in one run on one machine.
"""
