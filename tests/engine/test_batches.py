"""Every part in one recipe: the same views in any batch and after a stop, others in other epochs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cifarlab.config import Config
from cifarlab.core.registries import AUGMENTS, MIXERS
from cifarlab.engine.batches import make_batch, view_epoch
from cifarlab.training.setup import prepare
from tests.augment.test_augment import POLICIES
from tests.augment.test_mixers import BATCHED, PAIRED
from tests.tiny import tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

# Each part with the options that its own tests give it first, on some of the pictures.
AUGMENT: dict[str, Any] = {}
for policy in POLICIES.values():
    for part, options in policy.items():
        AUGMENT.setdefault(part, {**options, "p": 0.3})
PER_PAIR = {"mixup": {"p": 0.5}, "either": {"name": "one_of", **PAIRED["one_of"]["one_of"]}}
PER_BATCH = {"cutmix": {"per": "batch", "p": 0.5}, "one_of": BATCHED["a choice per batch"]["one_of"]}


def overrides(mix: dict[str, Any], augment: dict[str, Any] = AUGMENT) -> tuple[str, ...]:
    given = {"data.augment": augment, "data.mix": mix}
    return tuple(f"{key}={yaml.safe_dump(value, default_flow_style=True)}" for key, value in given.items())


def views(config: Config, sizes: int, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and targets of the first 24 samples, augmented in batches of `sizes`."""
    split = prepare(config).splits.train
    batches = [
        make_batch(split, positions, config.data, config.train.seed, epoch, 100)
        for positions in torch.arange(24).split(sizes)
    ]
    return torch.cat([b.images for b in batches]), torch.cat([b.targets for b in batches])


def test_the_recipe_has_every_part() -> None:
    ours = {name for name in AUGMENTS if AUGMENTS[name].call.__module__.startswith("cifarlab.")}
    assert AUGMENT.keys() == ours
    config = tiny_config(*overrides({**PER_PAIR, **PER_BATCH}))
    assert {spec.name for spec in config.data.mix.values()} == set(MIXERS)


@pytest.mark.parametrize(("mix", "sizes"), [({}, (1, 3, 8)), (PER_PAIR, (2, 6, 8))])
def test_views_do_not_depend_on_the_batch(mix: dict[str, Any], sizes: tuple[int, ...]) -> None:
    config = tiny_config(*overrides(mix))
    images, targets = views(config, 24)
    assert images.min() >= 0
    assert images.max() <= 1
    for size in sizes:
        again = views(config, size)
        assert torch.equal(again[0], images)
        assert torch.equal(again[1], targets)
    others, _ = views(config, 24, epoch=1)
    assert (others != images).flatten(1).any(1).all()


def test_views_that_come_back_alternate_among_themselves() -> None:
    """Of an odd number of views the last and the first are the same way round: a view is always the same."""
    flip = overrides({}, {"alternating_flip": {}, "crop": None, "flip": None})
    config = tiny_config(*flip, "data.views=3")
    shown = [views(config, 24, view_epoch(config, epoch))[0] for epoch in range(6)]
    for epoch in range(3):
        assert torch.equal(shown[epoch], shown[epoch + 3])
    for epoch, is_turned in enumerate((True, True, False, True, True)):
        turned = shown[epoch].flip(-1)
        assert torch.equal(shown[epoch + 1], turned if is_turned else shown[epoch])
    frozen = tiny_config(*flip, "data.freeze_views=true")
    assert [view_epoch(frozen, epoch) for epoch in range(3)] == [0, 0, 0]


def test_a_stopped_run_sees_the_same_views(tmp_path: Path, stop_at: Any) -> None:
    given = overrides({**PER_PAIR, **PER_BATCH})
    whole, _ = train_tiny(tmp_path / "whole" / "0", *given)
    for step in (3, 9):
        stopped: AbstractContextManager[None] = stop_at(step)
        with stopped:
            train_tiny(tmp_path / "stopped" / "0", *given)
    resumed, _ = train_tiny(tmp_path / "stopped" / "0", *given)
    assert_same_run(resumed, whole)
