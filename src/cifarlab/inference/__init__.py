"""Several trained runs made into one answer: ensembles and soups."""
