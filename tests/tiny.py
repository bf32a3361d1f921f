"""A run that takes a second: what tests of the loop and of the command line train."""

from pathlib import Path

from cifarlab.config import Config
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.runs.folder import Run
from cifarlab.training.loop import train_run

PARTS = Path(__file__).with_name("tiny_parts.py")
TINY = (
    f"imports=[{PARTS}]",
    "data.dataset={name: synthetic, train: 300, test: 100}",
    "data.val=100",
    "data.batch_size=32",
    "model.backbone=tiny",
    "optim.lr=1e-3",
    "train.epochs=2",
    "train.device=cpu",
)


def tiny_config(*overrides: str, recipe: str = "demo") -> Config:
    return resolve(read_recipe(recipe), [*TINY, *overrides])


def once(*words: object) -> list[str]:
    """The words of a command line; of several overrides of a key, which it refuses, the last."""
    keys = [str(word).partition("=")[0] if "=" in str(word) else place for place, word in enumerate(words)]
    return [str(word) for place, word in enumerate(words) if keys[place] not in keys[place + 1 :]]


def train_tiny(folder: Path, *overrides: str, recipe: str = "demo", **options):
    """Train and return (run, summary)."""
    run = Run(folder, recipe=recipe)
    return run, train_run(tiny_config(*overrides, recipe=recipe), run, **options)


def summary_values(**changes) -> dict:
    """What a `summary.json` holds at least, where no run was trained."""
    least = {
        "seed": 0, "epochs": 3, "chosen_on": "val", "chosen_epoch": 3, "train_top1": 0.9, "val_top1": 0.8,
        "test_top1": None, "gap": 0.1, "parameters": 1000, "seconds": 60.0,
    }  # fmt: skip
    return {**least, **changes}


def logged(run: Run) -> list[dict]:
    """The run's log without what depends on the clock."""
    from cifarlab.runs.log import read_log

    timed = ("seconds", "images_per_second")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_log(run.metrics_path)]
