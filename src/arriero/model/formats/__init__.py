"""Files that hold a model's weights: Hugging Face folders, Meta's checkpoints, GGUF."""
