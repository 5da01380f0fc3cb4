"""Alignment with human preferences, as Llama 2 did it (Touvron et al. 2023, arXiv 2307.09288, sections 3.2 to 3.4)."""
