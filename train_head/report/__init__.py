"""The report: one self-contained HTML page that says what a head learned, and how far to trust it."""
