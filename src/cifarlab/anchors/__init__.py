"""Published accuracies, and where a run stands among them."""

from cifarlab.anchors.placing import place, place_run

__all__ = ["place", "place_run"]
