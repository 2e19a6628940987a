"""Tests of the versions of Python, transformers and the hosts that we work with, an environment a row."""
