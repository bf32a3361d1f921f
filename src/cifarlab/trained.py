"""Trained models: what a run keeps of its chosen epoch, read back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cifarlab import checkpoint
from cifarlab.config import Config
from cifarlab.device import pick_device
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.recipes import checked
from cifarlab.registry import ConfigError
from cifarlab.run import Run

# What best.pt holds: a model that stands alone.
BEST = ("model", "config", "classes", "store_size", "fingerprint", "row")


@dataclass(frozen=True)
class Trained:
    """A run's chosen model and its configuration.

    store_size: pixels a side of the pictures it was given. fingerprint: of its data, by part. epoch: the
    chosen one.
    """

    model: Classifier
    config: Config
    store_size: int
    fingerprint: dict[str, str]
    epoch: int

    def at(self, root: str | None) -> Trained:
        """The same, with its data set at `root`; None: where the run found it."""
        if root is None:
            return self
        data = self.config.data.model_copy(update={"root": str(Path(root).expanduser().absolute())})
        return replace(self, config=self.config.model_copy(update={"data": data}))


def load(run: Path | str, device: str = "cpu") -> Classifier:
    """The chosen model of a run, in evaluation mode.

    It takes pictures (B, 3, H, W) of any size, uint8 or floats in [0, 1], and answers with an `Output`;
    `classes` holds the labels' names. Raises ConfigError where the folder holds no finished epoch.
    """
    return load_trained(run, device).model


def load_trained(path: Path | str, device: str = "cpu") -> Trained:
    """The chosen model of a run (its folder, or its best.pt), and what it was trained on.

    Raises ConfigError as `load` does, and for a file that is cut off or something else.
    """
    place_on = pick_device(device)
    file = best_of(path)
    state = checkpoint.load(file, BEST)
    config = checked(state["config"])
    classes = state["classes"]
    statistics = ((0.0,) * 3, (1.0,) * 3)  # Replaced by the checkpoint's own.
    model = build_classifier(
        config.model, config.data.image_size, len(classes), statistics, classes=classes, initial=False
    )
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{file}: its weights do not fit its own configuration: {reason}") from None
    model = to_device(model, place_on).eval()
    return Trained(model, config, state["store_size"], state["fingerprint"], state["row"]["epoch"])


def best_of(path: Path | str) -> Path:
    """The checkpoint of a run's chosen epoch; a file stands for itself. Raises ConfigError."""
    path = Path(path)
    if path.is_file():
        if path.name == "last.pt":
            raise ConfigError(f"{path} is what its run goes on from; name {path.with_name('best.pt')}")
        return path
    run = Run(path)
    if not run.folder.is_dir():
        raise ConfigError(f"{run}: no such run")
    if not run.best_path.exists():
        seeds = sorted(found.parent for found in run.folder.glob("*/best.pt"))
        hint = f"; did you mean {seeds[0]}?" if seeds else ""
        raise ConfigError(f"{run} has no best.pt: it has not finished an epoch, or is not a run{hint}")
    return run.best_path
