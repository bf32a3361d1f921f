"""Frozen first parts of networks: computed once a view, and kept."""

from cifarlab.frozen.activations import Activations, reason_against
from cifarlab.frozen.border import Border, NoBorder, Tail, find_border, frozen_share

__all__ = ["Activations", "Border", "NoBorder", "Tail", "find_border", "frozen_share", "reason_against"]
