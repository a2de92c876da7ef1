"""Causal language models: tracing one with its cache, letting it write, and how well it foresees a text."""
