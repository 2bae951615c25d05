"""Fine-tuning: the backbone's last blocks trained again, from features that are stored at their boundary."""
