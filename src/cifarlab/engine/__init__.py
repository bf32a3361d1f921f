"""One training step, one scoring pass, and what they are made of."""
