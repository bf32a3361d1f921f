"""Published accuracies, and where a run stands among them."""

from cifarlab.evaluation.published.placing import place, place_run

__all__ = ["place", "place_run"]
