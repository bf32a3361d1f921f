"""What knows no experiment: errors, registries, randomness, batches, devices, files."""
