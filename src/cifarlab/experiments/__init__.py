"""What experiments over several seeds are made of."""
