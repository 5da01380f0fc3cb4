"""arriero in Python: what `import arriero` offers beside the commands, on the same settings."""
