"""What a trained run says: scores, predictions, ensembles, soups, audits."""
