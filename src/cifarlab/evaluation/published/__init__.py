"""Published accuracies, and the place of a run among them."""

from cifarlab.evaluation.published.placing import Placement, place_score

__all__ = ["Placement", "place_score"]
