"""Losses and gradients on a GPU against the CPU's: float32, the same pictures, engine by engine.

    python benchmarks/gpu_losses.py --out benchmarks/results/gpu/gpu_losses.json

The CPU's eager steps are the reference. Compared are gradients of steps that change no weight, of which the
later ones are captured or compiled, and the mean loss over --steps that do. Without TF32: it keeps three
decimal digits of a product. Exits with 1 where they are further apart than GRADIENTS and LOSSES.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from common import begin, exact_float32, parser, positive, write
from torch import Tensor, nn

from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.engine.step import Engine
from cifarlab.training.setup import prepare

# Without pretrained weights, which may be missing: the comparison does not depend on the initial weights.
OWN_START = ("model.backbone.pretrained=false",)
RECIPES = {
    "resnet18_baseline": (),
    "resnet18_augment": (),
    "resnet18_pretrained_arcface": OWN_START,
    "ladder/09_ema": (),
}
# Two orders of the same sums differ by 1e-7. Where one takes a ReLU of a last map of 1 x 1 to its other side,
# the gradient moves by a percent or two (1.2 % between two engines on one CPU, 128 real pictures a batch);
# a mistake moves it by its length.
GRADIENTS, LOSSES = 5e-2, 5e-3
# A rate that changes no float32 weight; and steps enough for an engine that captures the fourth.
STILL, STILL_STEPS = "optim.lr=1e-30", 5


def steps_of(engine: Engine, number: int) -> list[tuple[float, dict[str, Tensor]]]:
    """(loss, gradients by parameter, on the CPU) of the first steps."""
    engine.model.train()
    order, found = engine.order(0), []
    for step in range(min(number, engine.plan.steps_per_epoch)):
        engine.means.reset()
        engine.step(order, 0, step)
        named = engine.model.named_parameters()
        gradients = {name: it.grad.cpu().clone() for name, it in named if it.grad is not None}
        found.append((engine.means.read()["loss/total"], gradients))
    return found


@torch.no_grad()
def fill_norms(model: nn.Module) -> None:
    """Begin every norm's weights at one: the zeros of a block's last one keep gradients from the others."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(1)


@exact_float32()
def trained(recipe: str, overrides: Sequence[str], steps: int) -> tuple[list[dict[str, Tensor]], list[float]]:
    """(gradients of steps that change nothing, losses of steps that do)."""
    still = prepare(resolve(read_recipe(recipe), [*overrides, STILL])).engine
    fill_norms(still.model)
    moving = prepare(resolve(read_recipe(recipe), overrides)).engine
    gradients = [gradient for _, gradient in steps_of(still, STILL_STEPS)]
    return gradients, [loss for loss, _ in steps_of(moving, steps)]


def difference(reference: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """The relative difference of two gradients, of all parameters together; NaN where one is not finite.

    A single parameter's can be a small sum of large terms, which says more of rounding than of mistakes.
    """
    assert reference.keys() == found.keys()
    one, other = (torch.cat([it[name].flatten() for name in reference]).double() for it in (reference, found))
    return ((other - one).norm() / one.norm()).item()


def apart(reference: tuple[Any, list[float]], found: tuple[Any, list[float]]) -> dict[str, float]:
    """Relative differences: of gradients that of the step where it is largest, and of the mean losses."""
    gradients = [difference(one, other) for one, other in zip(reference[0], found[0], strict=True)]
    means = [statistics.fmean(losses) for _, losses in (reference, found)]
    return {
        "gradients": max(gradients, key=lambda value: (math.isnan(value), value)),
        "mean_loss": abs(means[1] / means[0] - 1),
    }


def is_close(figures: dict[str, float]) -> bool:
    """In this form NaN is not."""
    return figures["gradients"] <= GRADIENTS and figures["mean_loss"] <= LOSSES


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options.add_argument("--device", default="auto", help="what is held against the CPU")
    options.add_argument("--engines", nargs="+", default=["eager", "compiled", "graph"])
    options.add_argument("--steps", type=positive, default=20)
    given = options.parse_args()
    pictures, overrides, environment = begin(given, device=given.device)
    same = ["train.precision=float32", f"data.batch_size={20 if given.tiny else 128}", "train.epochs=1"]
    if not given.tiny:
        same.append("data.limit=5000")
    found: dict[str, dict[str, float]] = {}
    print("| recipe | engine | gradients apart | mean loss apart |\n|---|---|---|---|")
    for recipe in given.recipes:
        words = [*overrides, *same, *RECIPES[recipe]]
        reference = trained(recipe, [*words, "train.device=cpu", "train.engine=eager"], given.steps)
        for engine in given.engines:
            own = [f"train.device={given.device}", f"train.engine={engine}"]
            figures = apart(reference, trained(recipe, [*words, *own], given.steps))
            found[f"{recipe}, {engine}"] = figures
            columns = " | ".join(f"{value:.1e}" for value in figures.values())
            print(f"| `{recipe}` | {engine} | {columns} |", flush=True)
    told = {"pictures": pictures, "device": given.device, "steps": given.steps, "apart": found}
    write(given.out, "gpu_losses", {**environment, **told})
    if far := [name for name, figures in found.items() if not is_close(figures)]:
        raise SystemExit(f"further apart than {GRADIENTS:g} and {LOSSES:g}: {'; '.join(far)}")


if __name__ == "__main__":
    main()
