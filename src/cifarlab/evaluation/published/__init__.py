"""Published accuracies, and the comparison of a run with them."""

from cifarlab.evaluation.published.placing import Placement, place_score

__all__ = ["Placement", "place_score"]
