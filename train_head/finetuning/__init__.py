"""Fine-tuning: train the last layers of the backbone with the head, on features stored before those layers."""
