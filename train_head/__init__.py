"""Stage two: features in, a fitted head and an exported model out."""
