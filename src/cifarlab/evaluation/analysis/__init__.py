"""How good a run's model is, beyond one accuracy: by class, by confidence, by kind of picture."""
