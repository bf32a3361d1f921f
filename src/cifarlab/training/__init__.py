"""The loop: from a resolved recipe to a finished run."""
