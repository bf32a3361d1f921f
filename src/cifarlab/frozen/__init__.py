"""Frozen first parts of networks: computed once a view, and kept."""

from cifarlab.frozen.activations import Activations, reason_against
from cifarlab.frozen.border import NoBorder, find_border, frozen_share
from cifarlab.frozen.tail import Border, Tail

__all__ = ["Activations", "Border", "NoBorder", "Tail", "find_border", "frozen_share", "reason_against"]
