"""The report: one self-contained HTML page with what a head learned, and how far it can be trusted."""
