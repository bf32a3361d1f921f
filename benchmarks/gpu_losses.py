"""Losses and gradients on a GPU against the CPU's: float32, the same pictures, engine by engine.

    python benchmarks/gpu_losses.py --out benchmarks/results/gpu/gpu_losses.json

The CPU's eager steps are the reference. Compared are the gradients of the first step and the mean loss over
--steps. Without TF32: it keeps three decimal digits of a product. Exits with 1 where they are further apart
than GRADIENTS and LOSSES.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from common import begin, exact_float32, parser, positive, write
from torch import Tensor

from cifarlab.prepare import prepare
from cifarlab.recipes import read, resolve

# Without weights that may not be at hand: what is compared does not depend on where a run begins.
OWN_START = ("model.backbone.pretrained=false",)
RECIPES = {
    "resnet18_baseline": (),
    "resnet18_augment": (),
    "resnet18_pretrained_arcface": OWN_START,
    "strong/resnet18_30_epochs": (),
}
# A ReLU's input near zero is on its other side after another order of sums, which moves gradients a little.
GRADIENTS, LOSSES = 1e-3, 5e-3


@dataclass(frozen=True)
class Trained:
    """losses: of each step. gradients: of the first one, by parameter, on the CPU."""

    losses: list[float]
    gradients: dict[str, Tensor]


@exact_float32()
def train(recipe: str, overrides: list[str], steps: int) -> Trained:
    engine = prepare(resolve(read(recipe), overrides)).engine
    engine.model.train()
    losses, gradients = [], {}
    order = engine.order(0)
    for step in range(min(steps, engine.plan.steps_per_epoch)):
        engine.means.reset()
        engine.step(order, 0, step)
        losses.append(engine.means.read()["loss/total"])
        if step == 0:
            named = engine.model.named_parameters()
            gradients = {name: it.grad.cpu().clone() for name, it in named if it.grad is not None}
    return Trained(losses, gradients)


def apart(reference: Trained, found: Trained) -> dict[str, float]:
    """Relative differences: the largest of a parameter's gradients, the first loss, the mean loss."""
    assert reference.gradients.keys() == found.gradients.keys()
    gradients = {
        name: ((found.gradients[name] - ours).norm() / ours.norm()).item()
        for name, ours in reference.gradients.items()
        if ours.norm() > 0
    }
    means = [statistics.fmean(it.losses) for it in (reference, found)]
    return {
        "gradients": max(gradients.values()),
        "first_loss": abs(found.losses[0] / reference.losses[0] - 1),
        "mean_loss": abs(means[1] / means[0] - 1),
    }


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options.add_argument("--device", default="cuda", help="what is held against the CPU")
    options.add_argument("--engines", nargs="+", default=["eager", "compiled", "graph"])
    options.add_argument("--steps", type=positive, default=20)
    given = options.parse_args()
    pictures, overrides, environment = begin(given, device=given.device)
    same = ["train.precision=float32", f"data.batch_size={20 if given.tiny else 128}", "train.epochs=1"]
    if not given.tiny:
        same.append("data.limit=5000")
    found, far = {}, []
    print("| recipe | engine | step 1: gradients apart | loss | mean loss |\n|---|---|---|---|---|")
    for recipe in given.recipes:
        words = [*overrides, *same, *RECIPES[recipe]]
        reference = train(recipe, [*words, "train.device=cpu", "train.engine=eager"], given.steps)
        for engine in given.engines:
            own = [f"train.device={given.device}", f"train.engine={engine}"]
            figures = apart(reference, train(recipe, [*words, *own], given.steps))
            found[f"{recipe}, {engine}"] = figures
            print(f"| `{recipe}` | {engine} | " + " | ".join(f"{it:.1e}" for it in figures.values()) + " |",
                  flush=True)  # fmt: skip
            if figures["gradients"] > GRADIENTS or figures["mean_loss"] > LOSSES:
                far.append(f"{recipe}, {engine}")
    told = {"pictures": pictures, "device": given.device, "steps": given.steps, "apart": found}
    write(given.out, "gpu_losses", {**environment, **told})
    if far:
        raise SystemExit(f"further apart than {GRADIENTS:g} and {LOSSES:g}: {'; '.join(far)}")


if __name__ == "__main__":
    main()
