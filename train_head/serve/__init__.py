"""Page and JSON endpoint that classify pictures with an exported model."""
