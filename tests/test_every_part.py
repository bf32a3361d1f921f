"""What every registered part does in the one loop: a run that was stopped resumes to the same bits."""

import json

import pytest

from cifarlab.core.registries import (
    AUGMENTS,
    AVERAGES,
    HEADS,
    LOSSES,
    MIXERS,
    OPTIMIZERS,
    SCHEDULES,
    SHARPNESS,
)
from cifarlab.core.registry import Registry
from tests.tiny import train_tiny
from tests.training.test_loop import assert_same_run

# What a part cannot do without.
NEEDED = {
    "data.augment": {
        "one_of": {"choices": {"flip": {}, "cutout": {}}},
        "albumentations": {"transforms": [{"Affine": {"rotate": [-20, 20], "p": 0.8}}]},
    },
    "data.mix": {"one_of": {"choices": {"mixup": {}, "cutmix": {"per": "batch"}}}},
}
SMALL = (
    "data.dataset={name: synthetic, train: 192, test: 100}", "data.val=100", "train.precision=float32",
    "data.augment=null",
)  # fmt: skip


def names(registry: Registry, **traits: bool) -> list[str]:
    """Those of this package, of which each trait is as given."""
    return [
        name
        for name in registry
        if registry[name].call.__module__.startswith("cifarlab.")
        and all(bool(getattr(registry[name].traits, trait)) == value for trait, value in traits.items())
    ]


def beside(loss: str) -> tuple[str, ...]:
    """The loss, beside one that classifies, and the head that it needs."""
    traits = LOSSES[loss].traits
    head = "{name: linear, bias: false}" if traits.needs_products else "linear"
    return (
        f"objective.other={{name: {loss}, weight: 0.5}}",
        f"model.head={'{name: margin, dim: 16}' if traits.needs_cosines else head}",
    )


def together(path: str, registry: Registry) -> tuple[str, ...]:
    """All of them, one after the other, each on some of the pictures."""
    parts = {name: {"p": 0.4, **NEEDED[path].get(name, {})} for name in names(registry)}
    return (f"{path}={json.dumps(parts)}",)


RUNS = {
    "data.augment": together("data.augment", AUGMENTS),
    "data.mix": together("data.mix", MIXERS),
    **{f"objective.{name}": beside(name) for name in names(LOSSES, needs_teacher=False)},
    **{f"head.{name}": (f"model.head={name}",) for name in names(HEADS)},
    **{f"optim.{name}": (f"optim={{name: {name}, lookahead: {{steps: 2}}}}",) for name in names(OPTIMIZERS)},
    **{f"sharpness.{name}": (f"optim.sharpness={name}",) for name in names(SHARPNESS)},
    **{f"schedule.{name}": (f"optim.schedule={name}",) for name in names(SCHEDULES)},
    **{f"average.{name}": (f"train.average={name}",) for name in names(AVERAGES)},
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_a_run_resumes_exactly(overrides: tuple[str, ...], tmp_path, stop_at):
    """Stopped after the second of an epoch's three steps, and, of the next epoch, after the first."""
    overrides = (*SMALL, "optim.lr=1e-3", *overrides)
    whole, _ = train_tiny(tmp_path / "whole", *overrides)
    for step in (1, 3):
        with stop_at(step):
            train_tiny(tmp_path / "halved", *overrides)
    halved, _ = train_tiny(tmp_path / "halved", *overrides)
    assert_same_run(whole, halved)
