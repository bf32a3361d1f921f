"""Experiments over several seeds: comparisons, ladders, refits, reproductions."""
