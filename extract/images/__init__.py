"""Find pictures with their classes and splits, and list the skipped files."""
