"""Comparison of a run's accuracy with published ones."""

from __future__ import annotations

from typing import Literal

from cifarlab.config import Config
from cifarlab.core.records import Record
from cifarlab.evaluation.published.causes import augmentation, causes, pretrained
from cifarlab.evaluation.published.figures import ANCHORS, Anchor
from cifarlab.training.progress import OPTIMISTIC

CAUSES_SHOWN = 5


class PublishedFigure(Record):
    """A published accuracy. Its fields are those of `figures.Figure`."""

    top1: float
    source: str
    runs: int | None
    epoch: str | None


class Placement(Record):
    """Comparison of an accuracy with published ones.

    Attributes:
        anchor: Name of the published architecture and protocol.
        band: Lowest and highest accuracy to expect from this protocol, in percent.
        figures: The published accuracies that the band is made from.
        split: Split that the accuracy was measured on. Published accuracies are on test.
        difference: Points above the band (positive) or below it (negative). 0 within it.
        verdict: Whether the accuracy is below, within or above the band.
        causes: Likely causes of an accuracy below the band, sorted by their estimated cost in accuracy, the
            largest first. Empty if the accuracy is not below the band.
        text: The comparison in words.
    """

    anchor: str
    band: list[float]
    figures: list[PublishedFigure]
    split: str
    difference: float
    verdict: Literal["below", "within", "above"]
    causes: list[str]
    text: str


def place_score(config: Config, top1: float, split: str) -> Placement | None:
    """Compare an accuracy with those published for the most similar protocol.

    Args:
        config: Configuration of the run.
        top1: Accuracy, as a fraction.
        split: Split that the accuracy was measured on.

    Returns:
        The comparison. None if nothing is published for the backbone or the data set.
    """
    anchor = nearest_anchor(config)
    if anchor is None:
        return None
    accuracy, (low, high) = 100 * top1, anchor.band
    difference = round(min(accuracy - low, 0) + max(accuracy - high, 0), 2)
    verdict = "below" if difference < 0 else "above" if difference > 0 else "within"
    found = causes(config, anchor) if verdict == "below" else []
    return Placement(
        anchor=anchor.name,
        band=[low, high],
        figures=[
            PublishedFigure(top1=f.top1, source=f.source, runs=f.runs, epoch=f.epoch) for f in anchor.figures
        ],
        split=split,
        difference=difference,
        verdict=verdict,
        causes=found,
        text=_text(anchor, difference, verdict, found, _remark(config, split)),
    )


def nearest_anchor(config: Config) -> Anchor | None:
    """Return the published accuracies with the most similar protocol.

    Only those of the configuration's backbone are considered. None if nothing is published for the backbone
    or the data set.
    """
    if config.data.dataset.name != "cifar100" or config.data.classes is not None:
        return None
    name = config.model.backbone.name.partition(".")[0]
    fitting = [anchor for anchor in ANCHORS if name in anchor.backbones]
    return min(fitting, key=lambda anchor: _distance(config, anchor), default=None)


def _distance(config: Config, anchor: Anchor) -> tuple[int, float]:
    losses = {spec.name for spec in config.objective.values()}
    taught = anchor.distilled in losses if anchor.distilled else not config.teacher_outputs
    other = augmentation(config) ^ anchor.augment
    differences = (
        10 * (pretrained(config) != bool(anchor.pretrained))
        + 10 * (abs(config.data.image_size - anchor.image_size) > 64)
        + 3 * (not taught)
        + len(other)
        + ("policy" in other)  # A policy gains more accuracy than cutout.
        + (anchor.sharpness != (config.optim.sharpness is not None))
    )
    return differences, abs((anchor.epochs or config.train.epochs) - config.train.epochs)


def _remark(config: Config, split: str) -> str:
    if split == "val":
        return "measured on validation pictures, the figures on test"
    return OPTIMISTIC if config.train.select == "test" else ""


def _text(anchor: Anchor, difference: float, verdict: str, found: list[str], remark: str) -> str:
    low, high = anchor.band
    where = f"{abs(difference):.1f} points {verdict}" if difference else "within"
    text = f"{where} the band of {anchor.name}, [{low:.1f}, {high:.1f}] ({anchor.sources})"
    text += f"; {remark}" if remark else ""
    if found:
        text += f"; likely causes, in order: {'; '.join(found[:CAUSES_SHOWN])}"
    elif verdict == "below":
        text += "; its configuration does not explain the difference"
    return text
