"""Floor 2: the LLaMA model, its configuration and presets, and the formats it is read from and written to."""
