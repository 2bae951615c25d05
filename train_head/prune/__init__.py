"""Free disk space: find what is no longer needed below a folder, and remove it on request."""
