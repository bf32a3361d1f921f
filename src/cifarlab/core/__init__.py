"""Ground layer, independent of any experiment: errors, registries, randomness, batches, devices, files."""
