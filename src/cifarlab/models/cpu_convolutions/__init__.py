"""Convolutions that compute each pass of a training step in the fastest way on CPUs."""
