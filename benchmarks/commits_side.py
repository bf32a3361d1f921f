"""One side of compare_commits.py: how fast the tree on the path trains and scores.

It reads one request a line, as JSON, and answers each with a line: `{"train": 5}` trains five steps,
`{"score": 100}` scores as many pictures, `{"bare": 20}` trains the bare model, and `{"end": 0}` ends.
It imports nothing of this repository but the package under test, which may be an earlier one.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

WARM_UP = 3


class Side:
    """A prepared training run of the tree on the path, which works when asked."""

    def __init__(self, recipe: str, overrides: Sequence[str]):
        try:
            from cifarlab.config.recipes import read_recipe, resolve
            from cifarlab.core.device import peak_memory
            from cifarlab.training.setup import prepare
        except ModuleNotFoundError:  # A commit before the modules moved to their folders of today.
            names = ("recipes", "device", "prepare")
            old = {name: importlib.import_module(f"cifarlab.{name}") for name in names}
            read_recipe, resolve = old["recipes"].read, old["recipes"].resolve
            peak_memory, prepare = old["device"].peak_memory, old["prepare"].prepare
        self.peak_memory = peak_memory
        self.config = resolve(read_recipe(recipe), overrides)
        job = prepare(self.config)
        self.engine, self.val = job.engine, job.splits.val
        self.done = 0

    def train(self, steps: int) -> dict[str, float]:
        """Train `steps` steps more."""
        self.engine.model.train()
        pictures = 0
        begun = time.perf_counter()
        for _ in range(steps):
            epoch, within = divmod(self.done, self.engine.plan.steps_per_epoch)
            if within == 0:
                self.order = self.engine.order(epoch)
            self.engine.step(self.order, epoch, self.done)
            self.done += 1
            pictures += self.engine.plan.step_size
        return {"seconds": time.perf_counter() - begun, "pictures": pictures}

    def score(self, count: int) -> dict[str, float]:
        """Score the first `count` validation pictures."""
        split = self.val
        assert split is not None
        part = replace(split, rows=split.rows[:count], labels=split.labels[:count], ids=split.ids[:count])
        begun = time.perf_counter()
        self.engine.score(part)
        return {"seconds": time.perf_counter() - begun, "pictures": len(part)}

    def bare(self, steps: int) -> dict[str, float]:
        """Train the model on one batch that is already there, without the engine."""
        from cifarlab.optim.optimizers import build_optimizer

        engine, config = self.engine, self.config
        size, count = config.data.image_size, config.data.batch_size
        images = engine.precision.layout(torch.rand(count, 3, size, size))
        labels = torch.arange(count) % engine.model.num_classes
        model = engine.model.train()
        optimizer = build_optimizer(config.optim, [model])
        times = []
        for _ in range(steps + WARM_UP):
            begun = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            with engine.precision.autocast():
                loss = F.cross_entropy(model.head(model.backbone(images)).logits, labels)
            loss.backward()
            optimizer.step()
            times.append(time.perf_counter() - begun)
        return {"seconds": sum(times[WARM_UP:]), "pictures": count * steps}

    def end(self, _: int) -> dict[str, float]:
        """Tell the mean loss of all steps, and the peak memory in GiB."""
        loss = self.engine.means.read()["loss/total"]
        return {"loss": loss, "peak_gib": self.peak_memory(self.engine.device) / 2**30}


def main() -> None:
    side = Side(**json.loads(sys.argv[1]))
    for line in sys.stdin:
        ((name, amount),) = json.loads(line).items()
        print(json.dumps(getattr(side, name)(amount)), flush=True)


if __name__ == "__main__":
    main()
