"""The data of training: examples, and the batches that are made of them."""
