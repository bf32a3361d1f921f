"""Training: from a resolved recipe to a finished run."""
