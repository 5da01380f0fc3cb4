"""Floor 3: one generation engine for chat, evaluation and rollouts."""
