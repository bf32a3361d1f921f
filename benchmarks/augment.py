"""Speed of every augmentation on one CPU core, and of torchvision's policies picture by picture.

python benchmarks/augment.py --out benchmarks/results/augment.json
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from common import (
    data_overrides,
    describe_machine,
    environment,
    load_average,
    parser,
    positive,
    spread,
    warn_if_busy,
    write,
)
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from cifarlab.draws import Draws
from cifarlab.prepare import prepare
from cifarlab.recipes import read, resolve
from cifarlab.registry import AUGMENTS

RECIPE = "resnet18_baseline"
# The tutorial's policy; other parts run with their defaults.
CHOICES = ("shift_scale_rotate", "coarse_dropout", "color_jitter", "flip", "vertical_flip")
OPTIONS = {"one_of": {"choices": {name: {} for name in CHOICES}}}
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


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=positive, default=7)
    options.add_argument("--batch", type=positive, default=250, help="pictures")
    options = options.parse_args()
    load = load_average()
    warn_if_busy(load)
    torch.set_num_threads(1)
    size, rounds = (20, 1) if options.tiny else (options.batch, options.rounds)

    data, overrides = data_overrides(options)
    config = resolve(read(RECIPE), [*overrides, f"data.batch_size={size}", "train.device=cpu"])
    job = prepare(config)
    stored = job.splits.train.images[:size].cpu()
    images, draws = stored.float() / 255, Draws(0, 0, torch.arange(size))
    engine, steps = job.engine, iter(range(rounds + 1))
    engine.begin(0)
    order = engine.order(0)
    step = microseconds(lambda: engine.step(engine.plan.positions(order, 0), 0, next(steps)), size, rounds)
    found = environment(load, ["torchvision"])
    print(f"{describe_machine(found)}; {data}, {size} a batch; on one core")
    training = spread(step, digits=1, best=min)
    print(f"a step of {RECIPE}: {training['median']:.0f} us a picture")

    parts, library = {}, {}
    for name in AUGMENTS:
        spec = AUGMENTS.spec({"name": name, **OPTIONS.get(name, {})})
        times = microseconds(lambda spec=spec, name=name: spec.build(images, draws.at(name)), size, rounds)
        figures = spread(times, digits=2, best=min)
        share = figures["median"] / (figures["median"] + training["median"])
        parts[name] = {"microseconds": figures, "share_of_step": round(share, 4)}
        print(f"{name:22} {figures['median']:7.1f} us a picture, {share:6.2%} of the step")
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
        | {"torchvision": library},
    )


if __name__ == "__main__":
    main()
