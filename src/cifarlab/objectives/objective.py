"""`Objective`: a recipe's losses and their weighted sum.

A loss has a label, its key in the recipe's section `objective`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registry import Spec

Loss = Callable[[Batch, Output], Tensor]


class Objective(nn.Module):
    """The losses of a recipe by label, and their weights.

    A loss that is an `nn.Module` is a submodule named `loss_<label>`, so its state is saved.
    """

    def __init__(self, losses: Mapping[str, Loss], weights: Mapping[str, float]):
        super().__init__()
        self.weights = dict(weights)
        self._losses: dict[str, Loss] = {}
        for label, loss in losses.items():
            if isinstance(loss, nn.Module):
                self.add_module(f"loss_{label}", loss)
            else:
                self._losses[label] = loss

    def _loss(self, label: str) -> Loss:
        # Look modules up by name. nn.Module may replace a submodule, and a second reference kept here would
        # be stale.
        return self._losses[label] if label in self._losses else self.get_submodule(f"loss_{label}")

    def forward(self, batch: Batch, output: Output) -> dict[str, Tensor]:
        """Return {label: unweighted loss, ..., "total": weighted sum}.

        All are scalars in float32.

        Raises:
            ConfigError: A loss is not a scalar.
        """
        losses = {label: self._loss(label)(batch, output).float() for label in self.weights}
        for label, loss in losses.items():
            if loss.ndim:
                raise ConfigError(
                    f"returned shape {list(loss.shape)}; a loss must return one number", ("objective", label)
                )
        total = sum((self.weights[label] * loss for label, loss in losses.items()), start=0.0)
        assert isinstance(total, Tensor)
        return {**losses, "total": total}


def build_objective(
    specs: Mapping[str, Spec],
    num_classes: int,
    num_features: int,
    *,
    student: Output | None = None,
    teacher: Output | None = None,
) -> Objective:
    """Build the objective of a recipe.

    Args:
        specs: Losses by label.
        num_classes: Number of classes.
        num_features: Width of the embedding, for losses with parameters.
        student: The student's output for one picture, for losses that have parameters and need a teacher.
        teacher: The teacher's output for one picture, for the same losses.

    Raises:
        ConfigError: Student and teacher do not fit together.
    """
    losses: dict[str, Loss] = {}
    for label, spec in specs.items():
        if not inspect.isclass(spec.part.call):
            losses[label] = spec.bind()
        elif spec.part.traits.needs_teacher:
            try:
                losses[label] = spec.build(student, teacher)
            except ConfigError as error:
                raise ConfigError(error.message, ("objective", label, *error.path)) from None
        else:
            losses[label] = spec.build(num_classes, num_features)
    return Objective(losses, {label: spec.weight for label, spec in specs.items()})
