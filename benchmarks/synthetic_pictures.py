"""What the embedded pictures teach: a contact sheet, and the baseline on them with and without crop and flip.

    python benchmarks/synthetic_pictures.py

Trains what is missing (some minutes on two CPU cores), then writes docs/results/synthetic.{md,jpg,png} and
benchmarks/results/synthetic_pictures.json.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.files import read_json
from cifarlab.data.synthetic import SUPERCLASS_OF, draw
from cifarlab.evaluation.score import evaluate
from cifarlab.report.plot import plot_runs
from cifarlab.runs.folder import Run
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress

ROOT = Path(__file__).parents[1]
RUNS = {"plain": ("data.augment=null",), "crop_and_flip": ()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/synthetic_pictures"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--override", action="append", default=[], help="key=value for every run")
    parser.add_argument("--out", type=Path, default=ROOT, help="where docs/ and benchmarks/ lie")
    given = parser.parse_args()
    results: dict[str, dict] = {}
    for name, changes in RUNS.items():
        run = Run(given.runs / name / "0", recipe="demo", name=name)
        config = resolve(read_recipe("demo"), [f"train.epochs={given.epochs}", *changes, *given.override])
        summary = train_run(config, run, progress=TrainingProgress())
        env = read_json(run.env_path)
        results[name] = {
            "summary": {**summary.to_json(), "test_top1": evaluate(run.folder, split="test").top1},
            "hardware": env["hardware"],
            "versions": env["versions"],
            "git": env["git"],
            "time": env["time"],
        }
    begun = time.process_time()
    draw(10_000)
    draw(2_000, split="test")
    results["drawing"] = {"pictures": 12_000, "cpu_seconds": time.process_time() - begun}
    write(results, given)


def write(results: dict[str, dict], given: argparse.Namespace) -> None:
    """The page, its pictures and the figures."""
    docs, figures = given.out / "docs" / "results", given.out / "benchmarks" / "results"
    docs.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    (figures / "synthetic_pictures.json").write_text(json.dumps(results, indent=1) + "\n")
    contact_sheet().save(docs / "synthetic.jpg", quality=85)
    title = "Synthetic pictures, ResNet-18: without augmentation, and with crop and flip"
    plot_runs([given.runs / name / "0" for name in RUNS], docs / "synthetic.png", title=title, gallery=False)
    plain, augmented = (results[name]["summary"] for name in RUNS)
    rows = [
        f"| {label} | {100 * summary['train_top1']:.1f} | {100 * summary['val_top1']:.1f} | "
        f"{100 * summary['test_top1']:.1f} |"
        for label, summary in (("none", plain), ("crop (4 pixels), flip", augmented))
    ]
    seconds = results["drawing"]["cpu_seconds"]
    machine = results["plain"]["hardware"]
    text = f"""# The embedded pictures

`data.dataset=synthetic`: 100 classes in 20 superclasses, drawn by the program. A class is a shape with a
color and a texture; a superclass, a row below, is a shape.

![Contact sheet](synthetic.jpg)

10,000 + 2,000 pictures take {seconds:.1f} s of one core to draw. The `demo` recipe's ResNet-18 on them,
{given.epochs} epochs, one run each, seed 0:

| augmentation | train, clean pictures, % | val, % | test, % |
|---|---|---|---|
{chr(10).join(rows)}

![Curves](synthetic.png)

Measured on {machine["processor"]}, {machine["cores"]} cores; {results["plain"]["time"][:10]}.
Again: `python benchmarks/synthetic_pictures.py`.
"""
    (docs / "synthetic.md").write_text(text)


def contact_sheet(columns: int = 16, size: int = 48) -> Image.Image:
    """A row of pictures for each superclass."""
    images, labels = draw(2_000, size=size)
    rows = []
    for superclass in range(max(SUPERCLASS_OF) + 1):
        chosen = [i for i, label in enumerate(labels) if SUPERCLASS_OF[label] == superclass][:columns]
        rows.append(np.concatenate([images[i].transpose(1, 2, 0) for i in chosen], axis=1))
    return Image.fromarray(np.concatenate(rows))


if __name__ == "__main__":
    main()
