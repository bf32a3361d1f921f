"""Frozen first parts of networks: their activations are computed once per view, and kept."""

from cifarlab.engine.frozen.activations import Activations
from cifarlab.engine.frozen.border import NoBorder, find_border, frozen_share
from cifarlab.engine.frozen.eligibility import reason_against
from cifarlab.engine.frozen.tail import Border, Tail

__all__ = ["Activations", "Border", "NoBorder", "Tail", "find_border", "frozen_share", "reason_against"]
