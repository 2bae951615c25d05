"""Finding pictures: which there are, of which class and split, and what was passed over."""
