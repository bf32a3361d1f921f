"""Scores, predictions, ensembles and soups of trained runs, and audits of data sets."""
