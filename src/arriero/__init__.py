"""arriero: raise a LLaMA on your own text and keep it honest about your own documents."""

__version__ = "0.1.0"
