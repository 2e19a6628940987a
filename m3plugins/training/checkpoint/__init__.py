"""Checkpoints of a training run: whole or not used."""
