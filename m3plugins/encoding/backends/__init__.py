"""Inference backends: each runs an M3 checkpoint on one device."""
