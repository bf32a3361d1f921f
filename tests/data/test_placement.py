"""Pictures go to the device as far as its memory has room: in training and in every command that scores."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from cifarlab.data import placement
from cifarlab.data.placement import left_on_host, place_all, place_split
from cifarlab.data.splits import load_splits
from cifarlab.engine import scoring
from cifarlab.evaluation.analysis.analyze import analyze
from cifarlab.evaluation.audit.audit import audit
from cifarlab.evaluation.ensemble import evaluate_ensemble
from cifarlab.evaluation.predict import predict
from cifarlab.evaluation.score import evaluate
from cifarlab.evaluation.soup import make_soup
from cifarlab.models import prediction
from cifarlab.models.classifier import Classifier
from cifarlab.runs.folder import Run
from cifarlab.runs.model import load_trained
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config, train_tiny

BATCH = 32
SETS = {300, 100}  # Pictures of the train and of the test part.
META = torch.device("meta")


def set_budget(patch: pytest.MonkeyPatch, budget: int | None) -> None:
    patch.setattr(placement, "picture_budget", lambda device: budget)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs that share their validation pictures, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        train_tiny(folder / "a" / str(seed), "data.split_seed=0", f"train.seed={seed}", "train.epochs=1")
    (folder / "pictures").mkdir()
    for i in range(2 * BATCH):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(folder / "pictures" / f"{i}.png")
    return folder


@pytest.fixture
def moved(monkeypatch) -> list[int]:
    """How many pictures were moved at once, by each move; batches are of BATCH pictures."""
    counts: list[int] = []
    to = torch.Tensor.to

    def watched(self, *arguments, **options):
        if self.dtype == torch.uint8 and self.ndim == 4:
            counts.append(len(self))
        return to(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    monkeypatch.setitem(scoring.PICTURES_PER_BATCH, "cpu", BATCH)
    return counts


def audited(run: Path) -> None:
    trained = load_trained(run)
    audit(trained.saved.data, runs=[trained])


COMMANDS = {
    "train": lambda runs, _: prepare(tiny_config()),
    "eval": lambda runs, _: evaluate(runs / "a" / "0", split="test", device="cpu"),
    "ensemble": lambda runs, _: evaluate_ensemble([runs / "a" / "0", runs / "a" / "1"], "test", device="cpu"),
    "soup": lambda runs, out: make_soup(
        [runs / "a" / "0", runs / "a" / "1"], Run(out / "soup" / "0"), device="cpu"
    ),
    "analyze": lambda runs, _: analyze(runs / "a" / "0", split="test", corruptions=True, device="cpu"),
    "audit": lambda runs, _: audited(runs / "a" / "0"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("has_room", [False, True])
def test_whole_sets_are_placed_only_where_there_is_room(
    command: str, has_room: bool, runs, moved, monkeypatch, tmp_path
):
    set_budget(monkeypatch, None if has_room else 0)
    COMMANDS[command](runs, tmp_path)
    assert bool(SETS & set(moved)) == has_room


def test_predict_takes_a_batch_at_a_time_at_any_size(runs, monkeypatch):
    seen, forward = [], Classifier.forward

    def watched(self, images, *given):
        seen.append(len(images))
        return forward(self, images, *given)

    monkeypatch.setattr(Classifier, "forward", watched)
    monkeypatch.setattr(prediction, "PICTURES_AT_ONCE", BATCH)
    answers = predict(runs / "a" / "0", [runs / "pictures"], device="cpu")
    assert len(answers) == 2 * BATCH
    assert seen == [BATCH, BATCH]
    seen.clear()
    monkeypatch.setattr(prediction, "PIXELS_AT_ONCE", 4 * 64 * 64)
    predict(runs / "a" / "0", [runs / "pictures"], device="cpu", image_size=64)
    assert max(seen) == 4


def test_what_does_not_fit_stays_and_is_said(monkeypatch):
    found = load_splits(tiny_config().data, 0, with_test=True)
    shared, own = found.train.images.nbytes, found.test.images.nbytes
    for budget, places in {
        None: ("meta", "meta", "meta"),
        shared + own: ("meta", "meta", "meta"),
        shared + own - 1: ("meta", "meta", "cpu"),
        shared - 1: ("cpu", "cpu", "meta"),
        0: ("cpu", "cpu", "cpu"),
    }.items():
        set_budget(monkeypatch, budget)
        placed = place_all(found, META)
        parts = [split for split in (placed.train, placed.val, placed.test) if split is not None]
        assert tuple(part.images.device.type for part in parts) == places
        for part in parts:
            assert part.rows.device == part.images.device
            assert part.labels.device == part.ids.device == META
        left = {part.images.data_ptr(): part.images for part in parts if part.images.device != META}
        size = sum(images.nbytes for images in left.values()) / 2**30
        said = [f"{size:.1f} GiB of pictures do not fit on meta: they stay on the host"] if left else []
        assert left_on_host(*parts) == said
    set_budget(monkeypatch, shared)
    placed = place_all(
        replace(found, val=None, test=replace(found.train, images=found.train.images + 0)), META
    )
    assert (placed.train.images.device.type, placed.test.images.device.type) == ("meta", "cpu"), "train first"
    set_budget(monkeypatch, 0)
    alone = place_split(found.test, META)
    assert alone.images.device.type == "cpu"
    assert alone.labels.device == META
    assert left_on_host(alone, None)
