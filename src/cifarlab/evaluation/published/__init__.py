"""Published accuracies, and where a run stands among them."""

from cifarlab.evaluation.published.placing import place_run, place_score

__all__ = ["place_run", "place_score"]
