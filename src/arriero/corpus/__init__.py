"""LLaMA's corpus (Touvron et al. 2023a, section 2.1): readers, cleaners, filters and deduplication for seven sources."""
