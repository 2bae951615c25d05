"""Sweeps: many heads on one extraction, side by side."""
