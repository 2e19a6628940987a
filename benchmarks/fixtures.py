"""The sentences, the tiny random models and the Elasticsearch nodes that the benchmarks share with the tests.

The long forms of single tests (soak, lite_damage) import the laboratory of their test as well.
"""

from tests.elasticsearch.node import Node, running
from tests.tiny import SENTENCES, save_checkpoint, train_tokenizer

__all__ = ["SENTENCES", "Node", "running", "save_checkpoint", "train_tokenizer"]
