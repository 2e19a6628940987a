"""Checkpoints of a training run, which are whole or not used."""
