"""Speed of every augmentation and mixer on one CPU core, and of torchvision's policies picture by picture.

python benchmarks/augment.py --out benchmarks/results/augment.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from common import begin, parser, positive, spread, write
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from cifarlab.augment import pair_draws, partners
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS, MIXERS
from cifarlab.core.registry import Registry
from cifarlab.training.setup import prepare

RECIPE = "resnet18_baseline"
# The tutorial's policy; other parts run with their defaults.
CHOICES = ("shift_scale_rotate", "coarse_dropout", "color_jitter", "flip", "vertical_flip")
# And the same in albumentations' words.
LIBRARY = (
    {"Affine": {"rotate": [-45, 45], "scale": [0.9, 1.1], "translate_percent": [-0.0625, 0.0625]}},
    "CoarseDropout", "ColorJitter", "HorizontalFlip", "VerticalFlip",
)  # fmt: skip
OPTIONS = {
    "one_of": {"choices": {name: {} for name in CHOICES}},
    "albumentations": {"transforms": [{"OneOf": {"transforms": [*LIBRARY], "p": 1.0}}]},
}
MIX_OPTIONS = {"one_of": {"choices": {"mixup": {}, "cutmix": {}}}}
POLICIES = {
    "rand_augment": v2.RandAugment,
    "trivial_augment_wide": v2.TrivialAugmentWide,
    "auto_augment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "aug_mix": v2.AugMix,
}


def microseconds(call: Callable[[], object], pictures: int, rounds: int) -> list[float]:
    """Per picture, of each of the rounds after the first."""
    call()
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        found.append((time.perf_counter() - begun) / pictures * 1e6)
    return found


def time_parts(
    parts: Registry,
    options: dict[str, Any],
    given: Callable[[str], tuple[Any, ...]],
    rounds: int,
    step: float,
) -> dict[str, Any]:
    """Time the package's parts of a registry, beside a step of `step` us a picture, and their share of both.

    given: what a part gets, by its name.
    """
    found = {}
    # Whoever runs this in a process of their own parts has those registered, too.
    own = [part.name for part in parts.parts() if part.call.__module__.startswith("cifarlab.augment.")]
    for name in own:
        spec = parts.spec({"name": name, **options.get(name, {})})
        handed = given(name)
        times = microseconds(lambda spec=spec, handed=handed: spec.build(*handed), len(handed[0]), rounds)
        figures = spread(times, digits=2, best=min)
        share = figures["median"] / (figures["median"] + step)
        found[name] = {"microseconds": figures, "share_of_step": round(share, 4)}
        print(f"{name:22} {figures['median']:7.1f} us a picture, {share:6.2%} of the step")
    return found


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=positive, default=7)
    options.add_argument("--batch", type=positive, default=250, help="pictures")
    options = options.parse_args()
    torch.set_num_threads(1)
    size, rounds = (20, 1) if options.tiny else (options.batch, options.rounds)

    packages = ("torchvision", "albumentations")
    data, overrides, found = begin(options, f"{size} a batch; on one core", packages)
    config = resolve(read_recipe(RECIPE), [*overrides, f"data.batch_size={size}", "train.device=cpu"])
    job = prepare(config)
    stored = job.splits.train.images[:size].cpu()
    images, draws = stored.float() / 255, Draws(0, 0, torch.arange(size))
    engine, steps = job.engine, iter(range(rounds + 1))
    engine.begin(0)
    order = engine.order(0)
    step = microseconds(lambda: engine.step(order, 0, next(steps)), size, rounds)
    training = spread(step, digits=1, best=min)
    print(f"a step of {RECIPE}: {training['median']:.0f} us a picture")

    parts = time_parts(AUGMENTS, OPTIONS, lambda name: (images, draws.at(name)), rounds, training["median"])
    print("mixers:")
    partner, targets = partners(size), torch.eye(100)[torch.arange(size) % 100]
    pairs = pair_draws(0, 0, torch.arange(size), partner)
    mixers = time_parts(
        MIXERS,
        MIX_OPTIONS,
        lambda name: (images, targets, partner, pairs.at(name)),
        rounds,
        training["median"],
    )
    library = {}
    pillow = [TF.to_pil_image(picture) for picture in stored]
    for name, make in POLICIES.items():
        transform, library[name] = make(), {}
        for kind, pictures in (("tensors", stored), ("PIL", pillow)):
            times = microseconds(lambda: [transform(one) for one in pictures], size, rounds)  # noqa: B023
            figures = spread(times, digits=1, best=min)
            ratio = figures["median"] / parts[name]["microseconds"]["median"]
            library[name][kind] = {"microseconds": figures, "times_ours": round(ratio, 2)}
            print(
                f"torchvision's {name}, {kind}: {figures['median']:.0f} us a picture, {ratio:.1f} times ours"
            )
    write(
        options.out,
        "augment",
        {**found, "pictures": data, "recipe": RECIPE, "batch": size, "step": training, "parts": parts}
        | {"mixers": mixers, "torchvision": library},
    )


if __name__ == "__main__":
    main()
