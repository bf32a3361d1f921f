"""Frozen first parts of networks: their activations are computed once per view, and kept."""

from cifarlab.engine.frozen.activations import Activations
from cifarlab.engine.frozen.border import NoBorder, find_border, frozen_share
from cifarlab.engine.frozen.eligibility import reason_against

__all__ = ["Activations", "NoBorder", "find_border", "frozen_share", "reason_against"]
