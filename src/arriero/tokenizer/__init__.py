"""Floor 1: text to token ids and back, and chats to prompts, as the model's own tokenizer file says."""
