"""Maintenance of a store: check, recovery and quarantine."""
