"""Pretrained weights of one's own against none: the same recipe, the same few epochs, three seeds.

    cifarlab train tiny_imagenet_resnet18 data.root=FOLDER_OF_TINY_IMAGENET train.epochs=10
    python benchmarks/transfer.py --init runs/tiny_imagenet_resnet18/0 --root FOLDER_OF_CIFAR100

Trains what is missing (about half an hour on two CPU cores), then writes docs/results/transfer.{md,png} and
benchmarks/results/transfer.json.
"""

from pathlib import Path
from typing import Any

from study import Arm, figures_of, mean_and_spread, paired, parser, plot, points, stands_on, train_all, write

from cifarlab.runs.folder import Run

SCRATCH, PRETRAINED = "from scratch", "from Tiny-ImageNet"


def main() -> None:
    options = parser(__doc__, "runs/transfer", 6)
    options.add_argument("--init", type=Path, required=True, help="the run of tiny_imagenet_resnet18")
    arguments = options.parse_args()
    arms = [
        Arm(SCRATCH, "resnet18_pretrained", ("model.backbone.pretrained=false",)),
        Arm(PRETRAINED, "resnet18_pretrained", (f"model.init={arguments.init.absolute()}",)),
    ]
    runs = train_all(arms, arguments)
    results: dict[str, Any] = {name: [figures_of(run) for run in seeds] for name, seeds in runs.items()}
    source = figures_of(Run(arguments.init))
    plot(results, arguments.out / "docs" / "results" / "transfer.png",
         "CIFAR-100, ResNet-18 at 32 px: weights from Tiny-ImageNet against none")  # fmt: skip
    differences = {
        "test": paired(*([run["test_top1"] for run in results[name]] for name in (PRETRAINED, SCRATCH))),
        "val_by_epoch": [
            paired(*([run["val_by_epoch"][epoch] for run in results[name]] for name in (PRETRAINED, SCRATCH)))
            for epoch in range(arguments.epochs)
        ],
    }
    figures = {"source": source, "arms": results, "differences": differences}
    write(arguments.out, "transfer", figures, page(figures, arguments.epochs))


def page(figures: dict[str, Any], epochs: int) -> list[str]:
    """The lines of the Markdown page."""
    results, differences, source = figures["arms"], figures["differences"], figures["source"]
    first = results[SCRATCH][0]
    lines = [
        "# A pretrained start of one's own",
        "",
        "`resnet18_pretrained` without ImageNet weights: a ResNet-18 pretrained on Tiny-ImageNet at 48 px "
        f"(`tiny_imagenet_resnet18`, cut to {len(source['val_by_epoch'])} epochs, "
        f"{100 * source['test_top1']:.1f} % on its `val/` folder), then fine-tuned on CIFAR-100 at 32 px, "
        "beside the same recipe from random weights. "
        f"{epochs} epochs each, seeds 0 to {len(results[SCRATCH]) - 1}; nothing else differs.",
        "",
        "![Curves: the mean over seeds, and all seeds as a band](transfer.png)",
        "",
        "| | " + " | ".join(f"epoch {epoch}" for epoch in range(1, epochs + 1)) + " | test |",
        "|---" * (epochs + 2) + "|",
    ]
    for name, runs in results.items():
        by_epoch = [mean_and_spread(epoch) for epoch in zip(*(r["val_by_epoch"] for r in runs), strict=True)]
        test = mean_and_spread([run["test_top1"] for run in runs])
        lines.append(f"| {name} | " + " | ".join([*by_epoch, test]) + " |")
    worth = [points(value) for value in [*differences["val_by_epoch"], differences["test"]]]
    lines += [
        "| difference, 95 % interval | " + " | ".join(worth) + " |",
        "",
        "Validation top-1 in percent by epoch, mean ± standard deviation over seeds; test: read once, for "
        "the epoch that validation chose. Differences in points, paired by seed (same split, same order of "
        "pictures), Student's t over the seeds. All seeds start from one pretraining: how much another one "
        "would differ is not in the intervals.",
        "",
        stands_on(first) + " Again: the commands at the top of `benchmarks/transfer.py`.",
    ]
    return lines


if __name__ == "__main__":
    main()
