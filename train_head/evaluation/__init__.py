"""Evaluation: metrics, baselines, intervals, calibration and plots."""
