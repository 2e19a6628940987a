"""The M3 model in training."""
