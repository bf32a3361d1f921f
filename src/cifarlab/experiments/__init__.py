"""Experiments with several runs: comparisons, ladders, refits, reproductions."""
