"""Stored activations of a network's frozen first part, so that training runs only the rest."""

from cifarlab.engine.frozen.activations import Activations
from cifarlab.engine.frozen.border import NoBorder, find_border, frozen_share
from cifarlab.engine.frozen.eligibility import reason_against

__all__ = ["Activations", "NoBorder", "find_border", "frozen_share", "reason_against"]
