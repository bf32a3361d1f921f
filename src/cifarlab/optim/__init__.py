"""Optimizers, learning-rate schedules, sharpness-aware steps and weight averages."""

from cifarlab.optim import averages, optimizers, sam, schedules

# These modules register parts.
__all__ = ["averages", "optimizers", "sam", "schedules"]
