"""Audit of a data set: duplicates, near duplicates, suspect labels, class imbalance."""
