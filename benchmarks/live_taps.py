"""What it saves to compute no products with padding's zeros, and what never stepping dead weights would add.

    python benchmarks/live_taps.py --out benchmarks/results/live_taps.json

At 32 px an ImageNet stem leaves maps of one or two pixels in the last stages, where most taps of a 3x3
convolution see padding alone. Steps of `resnet18_baseline` as they are and with torch's own convolutions; and
the optimizer's part of a step over all weights, and over the live ones alone. The latter is the most that
could be gained by applying the dead weights' decay in closed form when they are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from common import begin, parser, positive, spread, write
from torch import Tensor, nn

from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.engine.step import Engine
from cifarlab.models.cpu_convolutions.live_taps import LiveConv2d, use_live_taps
from cifarlab.optim.optimizers import build_optimizer
from cifarlab.training.setup import prepare

RECIPE = "resnet18_baseline"
PLAIN, LIVE = "torch's convolutions", "live taps"
ALL, FEW = "all weights", "live weights"


def without_live_taps(engine: Engine) -> Engine:
    """The same engine, whose convolutions are torch's own."""
    for part in engine.model.modules():
        if type(part) is LiveConv2d:
            part.__class__ = nn.Conv2d  # pyright: ignore[reportAttributeAccessIssue]
    return engine


def live_weights(engine: Engine) -> list[Tensor]:
    """The model's parameters, of convolutions the taps alone that some picture moves; gradients are kept."""
    found = []
    for parameter in engine.model.parameters():
        value, gradient = parameter.detach(), parameter.grad
        assert gradient is not None, "every weight has learned"
        if value.ndim == 4 and not (alive := gradient.abs().sum((0, 1)) > 0).all():
            value, gradient = value[:, :, alive], gradient[:, :, alive]
        kept = nn.Parameter(value.clone())
        kept.grad = gradient.clone()
        found.append(kept)
    return found


class Weights(nn.Module):
    """A model that is nothing but its weights, under names that say which are to decay."""

    def __init__(self, weights: list[Tensor]):
        super().__init__()
        self.weights = nn.ParameterList(weights)


def steps(engine: Engine, count: int) -> Iterator[Callable[[], None]]:
    """The next `count` steps of a run that goes through its first epoch again and again."""
    order, whole = engine.order(0), max(1, len(engine.train_split) // engine.plan.step_size)
    for number in range(count):
        yield lambda step=number % whole: engine.step(order, 0, step)


def seconds(calls: Iterator[Callable[[], None]], device: torch.device) -> float:
    """Mean seconds of a call, the device's work included."""
    begun, count = time.perf_counter(), 0
    for call in calls:
        call()
        count += 1
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / count


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=positive, default=7)
    options.add_argument("--steps", type=positive, default=20, help="timed as one, in each round")
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    if given.tiny:
        given.rounds, given.steps = 2, 1
    pictures, overrides, found = begin(given, RECIPE, device=given.device)
    overrides += [f"train.device={given.device}", *(["data.batch_size=20"] if given.tiny else [])]
    config = resolve(read_recipe(RECIPE), overrides)
    plain, live = without_live_taps(prepare(config).engine), prepare(config).engine
    use_live_taps(live.model)  # A run has them on a CPU alone.
    for engine in (plain, live):
        engine.model.train()
        for step in steps(engine, 2):
            step()
    weights = {ALL: [*live.model.parameters()], FEW: live_weights(live)}
    optimizers = {
        label: build_optimizer(config.optim, [Weights(values)]).step for label, values in weights.items()
    }
    parts: dict[str, Callable[[], Iterator[Callable[[], None]]]] = {
        PLAIN: lambda: steps(plain, given.steps),
        LIVE: lambda: steps(live, given.steps),
        **{label: lambda step=step: iter([step] * given.steps) for label, step in optimizers.items()},
    }
    times: dict[str, list[float]] = {label: [] for label in parts}
    for number in range(given.rounds + 1):
        for label, part in parts.items() if number % 2 else reversed(parts.items()):
            times[label].append(seconds(part(), live.device))
    figures = {label: spread(values[1:], digits=6, best=min) for label, values in times.items()}
    medians = {label: figure["median"] for label, figure in figures.items()}
    counts = {label: sum(value.numel() for value in values) for label, values in weights.items()}
    gain, bound = medians[PLAIN] / medians[LIVE], (medians[ALL] - medians[FEW]) / medians[LIVE]
    print("\n| | best, ms | median, ms |\n|---|---|---|")
    for label, figure in figures.items():
        what = f"optimizer, {label} ({counts[label]:,})" if label in counts else f"step, {label}"
        print(f"| {what} | {1e3 * figure['best']:.1f} | {1e3 * figure['median']:.1f} |")
    print(
        f"\nlive taps: {gain:.2f} times as fast; not stepping dead weights could save {bound:.1%} of a step"
    )
    result = {
        **found, "pictures": pictures, "recipe": RECIPE, "config": config.dump(),
        "precision": str(live.precision), "seed": config.train.seed, "steps": given.steps,
        "seconds": figures, "weights": counts,
        "ratio": round(gain, 3), "optimizer_bound": round(bound, 4),
    }  # fmt: skip
    write(given.out, "live_taps", result)


if __name__ == "__main__":
    main()
