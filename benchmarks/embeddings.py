"""Where each loss puts ten classes: embeddings of two numbers, drawn.

    python benchmarks/embeddings.py --root FOLDER_OF_CIFAR100

Trains what is missing (about ten minutes on a CPU), then writes docs/results/embeddings.{md,png} and
benchmarks/results/embeddings.json.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from study import Arm, figures_of, parser, stands_on, train_all, write

from cifarlab.data.splits import load_splits
from cifarlab.report.plot import STYLE
from cifarlab.runs.folder import Run
from cifarlab.runs.model import load_trained

PARTS = Path(__file__).with_name("embedding_parts.py")
RECIPE = "ladder/06_cifar_stem"
COLORS = mpl.colormaps["tab10"](range(10))
CLASSES, SCALE, SHORT = 10, 8, 8
EVERY = (
    f"imports=[{PARTS}]",
    f"data.classes={CLASSES}",
    "data.batch_size=50",
    "data.val=500",
)
ADAMW = "optim={name: adamw, lr: 1e-3, weight_decay: 1e-2}"
FRESH = "optim.lr=3e-3"  # for a head that begins at random
HEAD = f"model.head={{name: margin, dim: 2, scale: {SCALE}}}"
ALONE = "objective.cross_entropy=null"


def wide() -> Arm:
    """The first start: the network before its map to two numbers."""
    return Arm("wide", RECIPE, (*EVERY, "model.backbone={name: two_numbers, wide: true}", "optim.lr=0.05"))


def arm(name: str, start: Run, *overrides: str) -> Arm:
    """An arm that continues from the start with an embedding of two numbers."""
    init = f"model.init={start.folder.absolute()}"
    return Arm(name, RECIPE, (*EVERY, "model.backbone=two_numbers", init, ADAMW, *overrides))


def flat(start: Run, centers: int = 1) -> Arm:
    """The second start: ten classes put around the origin.

    On a circle a class cannot pass another: from random directions, losses of cosines alone end in a corner
    where all pictures lie in one direction. With embeddings that may be short, classes find their places.
    """
    head = (HEAD, f"model.head.centers={centers}")
    loss = "objective.sphereface={margin: 1, softness: 0}"
    return arm(f"flat {centers}", start, *head, ALONE, loss, FRESH)


def arms(start: Run, several: Run) -> list[Arm]:
    """Every loss; `several`: the start of the head with three directions a class."""
    return [
        arm("softmax", start, FRESH),
        arm("softmax + SupCon", start, FRESH, "objective.supcon={}"),
        arm("L-Softmax, 2 x angle", start, FRESH, "model.head={name: linear, bias: false}", ALONE,
            "objective.lsoftmax={margin: 2}"),
        arm("SphereFace, 2 x angle", start, HEAD, ALONE, "objective.sphereface={margin: 2}"),
        arm("normalized softmax", start, HEAD),
        arm("CosFace, margin 0.1", start, HEAD, ALONE, "objective.cosface={margin: 0.1}"),
        arm("ArcFace, margin 0.2", start, HEAD, ALONE, "objective.arcface={margin: 0.2}"),
        arm("ArcFace 0.2, 3 centers", several, HEAD, "model.head.centers=3", ALONE,
            "objective.arcface={margin: 0.2}"),
    ]  # fmt: skip


SEEN = (
    "- Softmax: a spoke a class, whose far end holds the pictures that the network is sure of. Spokes differ "
    "in length, classes that look alike (bear and beaver, bee and beetle) share one, and a class may have "
    "none. Its lines are those of the weights; the head has a bias, too, so they need not lie amid the "
    "points.",
    "- Normalized softmax, CosFace, ArcFace: only the angle counts, and the ten directions lie around the "
    "circle. Bear and beaver are neighbors here, too. The small margins that fit ten classes on a circle "
    "change the picture little.",
    "- SphereFace and L-Softmax multiply the angle, and a class that is not told from its neighbor may be "
    "given up to it: SphereFace puts bear and beaver in one direction, and in L-Softmax's panel several "
    "classes have hardly a point of their own.",
    "- SupCon beside softmax: the pictures lie in a fan on one side of the origin. It compares pictures with "
    "each other, whatever the head's directions.",
    "- Three centers: the three directions of aquarium fish lie together; those of baby and of bottle point "
    "to several sides, and pictures gather at some of them only.",
    "",
    "That a margin makes a class narrower is not shown: see the last column. Two numbers are a picture, and "
    "no measure of these losses with the hundreds that they were made for.",
)


@dataclass(frozen=True)
class Points:
    """A run's pictures as points: (N, 2) embeddings, (N,) labels, which are right, and class directions.

    directions: (C x K, 2), K of each class in turn.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    right: np.ndarray
    directions: np.ndarray
    classes: tuple[str, ...]


def points_of(run: Run) -> Points:
    """The embeddings of the validation pictures under the run's chosen model."""
    trained = load_trained(run.folder)
    splits = load_splits(trained.saved.data, trained.saved.split_seed)
    assert splits.val is not None
    head = trained.model.head.state_dict()
    with torch.inference_mode():
        images, labels, _ = splits.val.gather(torch.arange(len(splits.val)))
        output = trained.model.forward(images, trained.saved.image_size)
    return Points(
        output.embedding.numpy(),
        labels.numpy(),
        (output.logits.argmax(1) == labels).numpy(),
        (head["fc.weight"] if "fc.weight" in head else head["weight"]).numpy(),
        tuple(splits.classes[:CLASSES]),
    )


def main() -> None:
    options = parser(__doc__, "runs/embeddings", SHORT)
    options.add_argument("--start-epochs", type=int, default=20, help="of the wide start")
    options.set_defaults(seeds=1)
    arguments = options.parse_args()
    before = Namespace(**{**vars(arguments), "epochs": arguments.start_epochs})
    first = train_all([wide()], before)["wide"][0]
    second, third = (found[0] for found in train_all([flat(first), flat(first, 3)], arguments).values())
    runs = {name: found[0] for name, found in train_all(arms(second, third), arguments).items()}
    figures = {
        "starts": {"wide": figures_of(first), "flat": figures_of(second), "flat 3": figures_of(third)},
        "arms": {name: figures_of(run) for name, run in runs.items()},
    }
    points = {name: points_of(run) for name, run in runs.items()}
    plot(figures["arms"], points, arguments.out / "docs" / "results" / "embeddings.png")
    write(arguments.out, "embeddings", figures, page(figures, points, arguments.epochs))


def plot(results: Mapping[str, dict[str, Any]], points: Mapping[str, Points], path: Path) -> None:
    """A panel a loss, a color a class, and a line in each direction that stands for a class."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 8.2), layout="constrained", dpi=130)
        axes = figure.subplots(2, (len(results) + 1) // 2)
        for axis, (name, result) in zip(axes.flat, results.items(), strict=True):
            scatter(axis, points[name])
            axis.set_title(f"{name}\n{100 * result['val_top1']:.1f} %")
        classes = next(iter(points.values())).classes
        figure.legend(
            handles=[
                Line2D([], [], linestyle="", marker="o", color=color, label=name.replace("_", " "))
                for name, color in zip(classes, COLORS, strict=False)
            ],
            loc="outside lower center", ncols=CLASSES, frameon=False, handletextpad=0.1,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def scatter(axis: Axes, points: Points) -> None:
    """One loss's points around the origin, to the same length on every side."""
    reach = 1.1 * float(np.quantile(np.linalg.norm(points.embeddings, axis=1), 0.98))
    each = len(points.directions) // len(points.classes)
    for row, (x, y) in enumerate(points.directions / np.linalg.norm(points.directions, axis=1)[:, None]):
        axis.plot([0, reach * x], [0, reach * y], color=COLORS[row // each], linewidth=1, zorder=1)
    colors = COLORS[points.labels]
    colors[:, 3] = np.where(points.right, 0.75, 0.15)
    axis.scatter(*points.embeddings.T, s=10, c=colors, linewidths=0, zorder=2)
    axis.plot(0, 0, "+", color="black", markersize=7, zorder=3)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axis.set_axis_off()


def spread(points: Points) -> float:
    """Degrees between a picture and the mean direction of its class: the median over pictures."""
    length = np.linalg.norm(points.embeddings, axis=1, keepdims=True)
    units = points.embeddings / length
    means = np.stack([units[points.labels == label].mean(0) for label in range(len(points.classes))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    cosines = (units * means[points.labels]).sum(1).clip(-1, 1)
    return float(np.degrees(np.median(np.arccos(cosines))))


def page(figures: Mapping[str, Any], points: Mapping[str, Points], epochs: int) -> list[str]:
    """The lines of the Markdown page."""
    starts, results = figures["starts"], figures["arms"]
    first, second = starts["wide"], starts["flat"]
    return [
        "# Where each loss puts ten classes",
        "",
        "An embedding of two numbers can be drawn as it is, without a projection.",
        "",
        "![A panel a loss: validation pictures as points, colored by class](embeddings.png)",
        "",
        "Points: the 500 validation pictures of the first ten classes of CIFAR-100, as the network embeds "
        "them. Lines: the directions of the head's weights, a class each (three each on the last panel). The "
        "cross is the origin; pictures taken for another class are pale. Panels do not share a scale: "
        "lengths mean nothing to the heads that compare directions. In the title: validation accuracy.",
        "",
        "| loss | val, % | test, % | degrees from the class's mean direction, median |",
        "|---|---|---|---|",
        *(
            f"| {name} | {100 * result['val_top1']:.1f} | {100 * result['test_top1']:.1f} "
            f"| {spread(points[name]):.1f} |"
            for name, result in results.items()
        ),
        "",
        "One seed and 500 validation pictures: the order of these accuracies decides nothing. Nor do the "
        "heads begin alike: the linear ones are new, the others were trained before.",
        "",
        "## What one sees",
        "",
        *SEEN,
        "",
        "## Settings",
        "",
        f"`{RECIPE}` with `two_numbers` of `benchmarks/embedding_parts.py` for a backbone: ResNet-18's form "
        "with a block a stage, 8 to 64 channels, CIFAR's stem, and a linear map to two numbers. Batches of "
        f"50, crop and flip, AdamW with a peak of 1e-3 (3e-3 where the head is linear, and so new) "
        f"and a cosine, {epochs} epochs, seed {first['seed']}. "
        f"Heads that compare directions have scale {SCALE}.",
        "",
        "All arms start from one network. It was trained with softmax and without the map to two numbers "
        f"({len(first['val_by_epoch'])} epochs of SGD, {100 * first['val_top1']:.1f} % on validation), then "
        f"with it and SphereFace's logits without a margin ({len(second['val_by_epoch'])} epochs at 3e-3, "
        f"{100 * second['val_top1']:.1f} %), whose lengths are free; the head with three "
        "directions a class had this second step with its own head. From random directions, the losses of "
        "cosines alone did not train with two numbers: on a circle a class cannot pass another. Margins "
        "are smaller than the usual ones (0.4 and 0.5), which are for hundreds of numbers.",
        "",
        stands_on(next(iter(results.values())))
        + " Again: the command at the top of `benchmarks/embeddings.py`.",
    ]


if __name__ == "__main__":
    main()
