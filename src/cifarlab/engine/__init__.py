"""One training step, one scoring pass, and their parts."""
