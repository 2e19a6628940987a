"""Training data: examples, and the batches made of them."""
