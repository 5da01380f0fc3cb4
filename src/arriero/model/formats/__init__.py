"""Weights on disk: names, layouts and tensors of the Hugging Face, Meta and GGUF formats."""
