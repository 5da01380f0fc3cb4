"""Floor 6: what a run's folder tells, as one page."""
