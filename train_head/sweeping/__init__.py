"""Trial and error: many heads on one extraction, side by side."""
