"""Evaluation of trained runs: scores, predictions, ensembles, soups, audits."""
