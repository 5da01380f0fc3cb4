"""Floor 2: the LLaMA model, its cache, and the formats its weights travel in."""
