"""Free disk space: find files that are no longer needed below a folder, and remove them on request."""
