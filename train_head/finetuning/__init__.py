"""Fine-tuning: the last layers of the backbone trained with the head, from features stored before them."""
