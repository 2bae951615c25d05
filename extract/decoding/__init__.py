"""Reading and decoding of picture files."""
