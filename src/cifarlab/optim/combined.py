"""Optimizers of several: one for each kind of parameter, as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer


class Combined(Optimizer):
    """Optimizers that step together, each over its own parameters.

    Their groups stand one after another in `param_groups`, and they keep their moments in one `state`: a
    learning rate, a gradient's scale and a state dict reach all of them as they reach any optimizer.
    """

    def __init__(self, parts: Sequence[Optimizer]):
        self.parts = [*parts]
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give the parts the groups and the state that are here."""
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            first = last

    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of each; the gradients are there already."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()
