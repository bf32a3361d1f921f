"""Convolutions for CPUs that replace torch's: they are faster, or avoid a fault of oneDNN."""
