"""Maintenance: check, recover and quarantine."""
