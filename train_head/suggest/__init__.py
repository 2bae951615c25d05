"""Choice of the pictures to label next, with an exported model."""
