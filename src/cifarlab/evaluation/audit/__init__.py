"""What is wrong with a data set: duplicates, near duplicates, suspect labels, uneven classes."""
