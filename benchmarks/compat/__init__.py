"""Which versions of Python, transformers and the hosts we work with: our tests, an environment a row."""
