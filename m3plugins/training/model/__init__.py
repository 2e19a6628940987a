"""The M3 model in training, and what it needs: adapters, caches, memory, prompts."""
