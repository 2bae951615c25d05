"""Classification of pictures with an exported model."""
