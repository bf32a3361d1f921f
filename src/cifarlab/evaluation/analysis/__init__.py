"""Analysis of a model by class, confidence and kind of picture."""
