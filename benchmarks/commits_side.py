"""One side of compare_commits.py: how fast the tree on the path trains and scores.

It imports nothing of this repository but the package under test, which may be an earlier one.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

WARM_UP = 3


def measure(recipe: str, overrides: Sequence[str], steps: int, scored: int, bare: bool) -> dict[str, Any]:
    """Train an epoch of `steps` steps and score `scored` pictures."""
    from cifarlab.optim.optimizers import build_optimizer

    try:
        from cifarlab.config.recipes import read_recipe, resolve
        from cifarlab.core.device import peak_memory
        from cifarlab.training.setup import prepare
    except ModuleNotFoundError:  # A commit before the modules moved to their folders of today.
        old = {name: importlib.import_module(f"cifarlab.{name}") for name in ("recipes", "device", "prepare")}
        read_recipe, resolve = old["recipes"].read, old["recipes"].resolve
        peak_memory, prepare = old["device"].peak_memory, old["prepare"].prepare

    config = resolve(read_recipe(recipe), overrides)
    job = prepare(config)
    splits, engine = job.splits, job.engine
    engine.model.train()
    order = engine.order(0)
    seconds, pictures = 0.0, 0
    for step in range(steps):
        begun = time.perf_counter()
        engine.step(order, 0, step)
        if step >= WARM_UP:
            seconds += time.perf_counter() - begun
            pictures += engine.plan.step_size
    found = {"images_per_second": pictures / seconds, "loss": engine.means.read()["loss/total"]}
    split = splits.val
    assert split is not None
    part = replace(split, rows=split.rows[:scored], labels=split.labels[:scored], ids=split.ids[:scored])
    engine.score(part)
    begun = time.perf_counter()
    engine.score(part)
    found["scored_per_second"] = len(part) / (time.perf_counter() - begun)
    found["peak_gib"] = peak_memory(engine.device) / 2**30
    if bare:
        size, count = config.data.image_size, config.data.batch_size
        images = engine.precision.layout(torch.rand(count, 3, size, size))
        labels = torch.arange(count) % engine.model.num_classes
        model = engine.model.train()
        optimizer = build_optimizer(config.optim, [model])
        times = []
        for _ in range(max(1, steps // 4) + WARM_UP):
            begun = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            with engine.precision.autocast():
                loss = F.cross_entropy(model.head(model.backbone(images)).logits, labels)
            loss.backward()
            optimizer.step()
            times.append(time.perf_counter() - begun)
        timed = times[WARM_UP:]
        found["bare_per_second"] = count * len(timed) / sum(timed)
    return found


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
