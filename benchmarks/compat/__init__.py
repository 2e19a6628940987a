"""Which versions of Python, transformers and the hosts we work with: our tests, in an environment of its own for each."""
