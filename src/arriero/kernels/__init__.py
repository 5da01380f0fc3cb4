"""Floor 1: the numerical kernels, attention first."""
