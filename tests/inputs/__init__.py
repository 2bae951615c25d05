"""Tests of picture files and folders of all kinds, in extraction, export and prediction."""
