"""The first ten epochs of the baseline and of its augmentation: by the tutorial's text, and as its code ran.

    python benchmarks/first_ten_epochs.py --root FOLDER_OF_CIFAR100 --runs runs/first_ten_epochs

Trains what is missing (about an hour on two CPU cores), then writes docs/results/first_ten_epochs.{md,png}
and benchmarks/results/first_ten_epochs.json.
"""

import argparse
import json
from pathlib import Path

from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.files import read_json
from cifarlab.evaluation.score import evaluate
from cifarlab.report.plot import plot_runs
from cifarlab.runs.folder import Run
from cifarlab.runs.log import read_log
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress

ROOT = Path(__file__).parents[1]
RECIPES = ("resnet18_baseline", "as_run/resnet18_baseline", "resnet18_augment", "as_run/resnet18_augment")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", help="where CIFAR-100 lies")
    parser.add_argument("--runs", type=Path, default=Path("runs/first_ten_epochs"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", choices=RECIPES, help="train this one and write nothing")
    parser.add_argument("--override", action="append", default=[], help="key=value for every run")
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs/ and benchmarks/ lie")
    arguments = parser.parse_args()
    overrides = [f"train.epochs={arguments.epochs}", *arguments.override]
    overrides += [f"data.root={arguments.root}"] if arguments.root else []
    runs = {}
    for name in [arguments.only] if arguments.only else RECIPES:
        run = Run(arguments.runs / name / "0", recipe=name)
        train_run(resolve(read_recipe(name), overrides), run, progress=TrainingProgress())
        runs[name] = run
    if not arguments.only:
        write(runs, arguments.out, arguments.epochs)


def write(runs: dict[str, Run], out: Path, epochs: int) -> None:
    """Tables and curves from finished runs."""
    results = {}
    for name, run in runs.items():
        rows = read_log(run.metrics_path)
        summary, env = read_json(run.summary_path), read_json(run.env_path)
        # The test set is read once, for the epoch that validation chose; as run, training itself reads it.
        test = summary["test_top1"]
        if test is None:
            test = evaluate(run.folder, split="test").top1
        results[name] = {
            "epochs": [{k: v for k, v in row.items() if k.endswith("top1") or k == "epoch"} for row in rows],
            "chosen_on": summary["chosen_on"], "chosen_epoch": summary["chosen_epoch"], "test_top1": test,
            "val_top1": summary["val_top1"], "train_top1": summary["train_top1"], "seed": summary["seed"],
            "seconds": summary["seconds"], "precision": env["precision"], "hardware": env["hardware"],
            "git": env["git"], "versions": env["versions"],
            "time": env["time"], "data_fingerprint": env["data_fingerprint"],
        }  # fmt: skip
    figures = out / "benchmarks" / "results" / "first_ten_epochs.json"
    figures.parent.mkdir(parents=True, exist_ok=True)
    figures.write_text(json.dumps(results, indent=1) + "\n")
    picture = out / "docs" / "results" / "first_ten_epochs.png"
    title = "CIFAR-100, ResNet-18: the first epochs, as the text has it and as the code ran it"
    plot_runs([run.folder for run in runs.values()], picture, title=title, gallery=False)
    picture.with_suffix(".md").write_text(page(results, epochs))


def page(results: dict, epochs: int) -> str:
    """The Markdown page of the figures."""
    first = next(iter(results.values()))
    hardware, versions = first["hardware"], first["versions"]
    lines = [
        f"# The first {epochs} epochs",
        "",
        "The tutorial's baseline and its augmentation recipe: as its text has them, and (`as_run/`) as its",
        "published code ran them. Real CIFAR-100; one run each, seed 0: a point of difference means nothing.",
        "",
        "![Curves](first_ten_epochs.png)",
        "",
        "| recipe | held-out accuracy by epoch, % | chosen | test, % | train, clean pictures, % |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        kind = "test" if result["chosen_on"] == "test" else "val"
        curve = ", ".join(f"{100 * row[f'{kind}/top1']:.1f}" for row in result["epochs"])
        remark = " (optimistic: chosen on it)" if kind == "test" else ""
        lines.append(
            f"| `{name}` | {kind}: {curve} | epoch {result['chosen_epoch']} on {kind} | "
            f"{100 * result['test_top1']:.2f}{remark} | {100 * result['train_top1']:.2f} |"
        )
    lines += [
        "",
        f"Measured on {hardware['processor']}, {hardware['cores']} cores, {first['precision']}; "
        f"torch {versions['torch']}, timm {versions['timm']}; {first['time'][:10]}. "
        "Again: `python benchmarks/first_ten_epochs.py`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
