"""Python functions that do what the commands `train` and `compare` do."""
