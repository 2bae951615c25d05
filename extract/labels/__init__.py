"""Label the pictures of a folder from a table."""
