"""Lowest layer, which all others use: errors, registries, random numbers, batches, devices, files."""
