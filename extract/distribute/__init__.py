"""Extraction by workers on several cores or computers, with Ray."""
