"""LLaMA's corpus (Touvron et al. 2023a, section 2.1): readers, filters and deduplication for seven kinds of source."""
