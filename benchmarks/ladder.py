"""The ladder at the scale of a CPU: every rung in order, the same small ResNet, several seeds.

    python benchmarks/ladder.py --root FOLDER_OF_CIFAR100

Trains what is missing (an hour and a half on two CPU cores), then writes docs/results/ladder.{md,png} and
benchmarks/results/ladder.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from study import Arm, figures_of, mean_and_spread, paired, parser, points, stands_on, train_all, write

from cifarlab.config.recipes import read_recipe, recipe_names
from cifarlab.data.placement import place_split
from cifarlab.engine.scoring import collect_outputs, scores
from cifarlab.evaluation.sealed import open_split
from cifarlab.evaluation.tta import Augmented, mean_called, parse
from cifarlab.report.plot import COLORS, STYLE
from cifarlab.runs.folder import Run
from cifarlab.runs.model import load_trained

PARTS = Path(__file__).with_name("ladder_parts.py")
SCALE = (f"imports=[{PARTS}]", "data.limit=20000", "data.batch_size=100")
WIDTH = 8


def rungs() -> list[Arm]:
    """The recipes of the ladder with ResNet-18 made small, and twice as wide where a rung widens."""
    arms = []
    for name in recipe_names():
        if not name.startswith("ladder/"):
            continue
        backbone = read_recipe(name).plain["model"]["backbone"]
        if backbone["name"] == "resnet18":
            small = {"stem": backbone.get("stem", "imagenet"), "width": WIDTH}
        else:
            small = {"stem": "cifar", "width": 2 * WIDTH}
        override = f"model.backbone={{name: small_resnet, stem: {small['stem']}, width: {small['width']}}}"
        arms.append(Arm(name.removeprefix("ladder/"), name, (*SCALE, override)))
    return arms


def verdict(difference: Mapping[str, float]) -> str:
    """What an interval says: `helps`, `costs`, or that the seeds do not show either."""
    if difference["low"] > 0:
        return "helps"
    return "costs" if difference["high"] < 0 else "not shown"


def main() -> None:
    options = parser(__doc__, "runs/ladder", 10)
    arguments = options.parse_args()
    arms = rungs()
    trained = train_all(arms, arguments)
    results = {name: [figures_of(run) for run in runs] for name, runs in trained.items()}
    below = dict(zip(list(results)[1:], results, strict=False))
    differences = {
        name: paired(*([run["test_top1"] for run in results[rung]] for rung in (name, other)))
        for name, other in below.items()
    }
    top = beyond(trained[arms[-1].name])
    top["difference"] = paired(top["flip"], [run["test_top1"] for run in results[arms[-1].name]])
    figures = {"arms": results, "differences": differences, "beyond": top}
    plot(results, differences, arguments.out / "docs" / "results" / "ladder.png")
    write(arguments.out, "ladder", figures, page(arms, figures, arguments.epochs))


def beyond(runs: Sequence[Run]) -> dict[str, Any]:
    """Test accuracy of runs that also see each picture mirrored, and of all of them as one ensemble."""
    answers, labels = [], torch.empty(0)
    for run in runs:
        trained = load_trained(run.folder, device="cpu")
        size = trained.saved.image_size
        model = Augmented(trained.model, parse("flip"), size, trained.saved.model.backbone.name)
        pictures = place_split(
            open_split(run.folder, trained, "test", "ladder study").pictures, torch.device("cpu")
        )
        logits, labels, _ = collect_outputs(model, pictures, trained.precision, size)
        answers.append(logits)
    together = mean_called("probabilities")(torch.stack(answers))
    flipped = [scores(logits, labels)["top1"] for logits in answers]
    return {"flip": flipped, "ensemble": scores(together, labels)["top1"]}


def page(arms: Sequence[Arm], figures: Mapping[str, Any], epochs: int) -> list[str]:
    """The lines of the Markdown page."""
    results, differences = figures["arms"], figures["differences"]
    last, (first, *_) = list(results)[-1], results[arms[0].name]
    seeds = len(results[last])
    lines = [
        "# The ladder, at the scale of a CPU",
        "",
        "Each rung changes one thing in the rung below: the recipes `ladder/00_baseline` to "
        f"`ladder/{last}`, with a small ResNet in place of ResNet-18 (a block a stage, {WIDTH} to "
        f"{8 * WIDTH} channels; {2 * WIDTH} to {16 * WIDTH} on the last rung in place of WRN-28-10), "
        f"20,000 training pictures, {epochs} epochs, batches of 100, seeds 0 to {seeds - 1}. "
        "The last epoch is scored; nothing was chosen.",
        "",
        "![Test accuracy of each rung: a point a seed, a bar for the mean](ladder.png)",
        "",
        "| rung | the one change | val, % | test, % | change, points, 95 % interval | | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        runs = results[arm.name]
        change = differences.get(arm.name)
        val, test = (mean_and_spread([run[f"{split}_top1"] for run in runs]) for split in ("val", "test"))
        minutes = sum(run["seconds"] for run in runs) / len(runs) / 60
        what = read_recipe(arm.recipe).what.removeprefix("+ ")
        worth = f"{points(change)} | {verdict(change)}" if change else "- | "
        lines.append(f"| `{arm.name}` | {what} | {val} | {test} | {worth} | {minutes:.1f} |")
    top, gained = figures["beyond"], figures["beyond"]["difference"]
    worth = f"{points(gained)} | {verdict(gained)}"
    lines.append(
        f"| + flip | each test picture mirrored, too | - | {mean_and_spread(top['flip'])} | {worth} | - |"
    )
    gap = max(run["train_top1"] - run["val_top1"] for arm in arms[3:] for run in results[arm.name])
    together = f"{100 * top['ensemble']:.2f} | - | one only | - |"
    lines.append(f"| + ensemble | the {seeds} seeds' mean probabilities | - | {together}")
    lines += [
        "",
        "Mean ± standard deviation over seeds. A change is the paired difference from the rung below on test "
        "(same split, same order of pictures), with Student's t over the seeds and no correction for "
        f'{len(differences)} comparisons. "Not shown": the change has no significant effect over {seeds} '
        "seeds, at this scale. Minutes are of a run on one core, beside other work.",
        "",
        "At this scale nothing overfits: from the rung of crop and flip on, no run is more than "
        f"{100 * gap:.1f} points better on clean training pictures than on validation. So regularization "
        "has little to gain, and costs accuracy if it slows the fit. These figures show the effect of the "
        f"rungs in {epochs} epochs of a small net. Their effect in 200 epochs of a large one is not measured "
        "yet.",
        "",
        stands_on(first) + " Again: the command at the top of `benchmarks/ladder.py`.",
    ]
    return lines


def plot(
    results: Mapping[str, list[dict[str, Any]]], differences: Mapping[str, Mapping[str, float]], path: Path
) -> None:
    """A bar a rung, colored by what its interval says, and a point a seed."""
    colors = {"helps": COLORS[2], "costs": COLORS[1], "not shown": "#B0B0B0"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 5.2), layout="constrained", dpi=140)
        axis = figure.subplots()
        shown: set[str] = set()
        for row, (name, runs) in enumerate(results.items()):
            test = [100 * run["test_top1"] for run in runs]
            says = verdict(differences[name]) if name in differences else "the foot"
            label = None if says in shown else says
            shown.add(says)
            mean = sum(test) / len(test)
            axis.barh(row, mean, color=colors.get(says, COLORS[0]), alpha=0.75, label=label)
            axis.plot(test, [row] * len(test), "o", color="black", markersize=3)
            axis.annotate(f"{mean:.1f}", (max(test), row), (6, 0), textcoords="offset points", va="center")
        axis.set(title="The ladder: a small ResNet, 20,000 pictures of CIFAR-100", xlabel="top-1 % on test")
        axis.set_yticks(range(len(results)), list(results))
        axis.margins(x=0.08)
        axis.invert_yaxis()
        axis.grid(axis="x", alpha=0.25, linewidth=0.6)
        axis.legend(frameon=False, loc="lower right", title="against the rung below")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


if __name__ == "__main__":
    main()
