"""The story of a key, told on a stack of its own: make demo."""
