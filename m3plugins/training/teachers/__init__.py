"""Teachers of self-distillation."""
