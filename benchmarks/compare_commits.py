"""Training and scoring speed of this tree beside an earlier commit of it, in turn.

    python benchmarks/compare_commits.py --before a3f6340 --out benchmarks/results/compare_commits.json

Each side trains the same pictures from the same weights, each time in a process of its own. An epoch is timed
without its first steps. The mean loss over all steps shows that both compute the same. `bare` is the same
model and optimizer on one batch that is already there: what the engine adds is seen beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commits_side import WARM_UP
from common import begin, parser, positive, refuse, spread, write

REPOSITORY = Path(__file__).resolve().parent.parent
SIDE = Path(__file__).with_name("commits_side.py")
AUGMENTED = ("data.augment={crop: {padding: 4}, flip: {p: 0.5}}",)
# Name: recipe, overrides, the least ratio of training speed that the project asks for.
CASES: dict[str, tuple[str, tuple[str, ...], float]] = {
    "lite0_128": (
        "resnet18_baseline",
        ("model.backbone=tf_efficientnet_lite0", "data.image_size=128", "data.batch_size=64", *AUGMENTED),
        2.5,
    ),
    "mobilenetv3_128": (
        "resnet18_baseline",
        ("model.backbone=mobilenetv3_small_100", "data.image_size=128", "data.batch_size=64", *AUGMENTED),
        2.5,
    ),
    "resnet18_32": ("resnet18_baseline", (), 1.04),
    "resnet18_224": ("resnet18_baseline", ("data.image_size=224", "data.batch_size=64"), 1.08),
    "resnet18_cifar_stem": ("ladder/07_smoothing", ("train.average=ema",), 1.15),
}
SCORING = {"lite0_128": 3.0}
LOSS_TOLERANCE = 0.005


def run_side(source: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """Measure in a process that imports the package below `source`."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    words = [sys.executable, str(SIDE), json.dumps(arguments)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{source}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(case: str, trees: dict[str, Path], overrides: Sequence[str], given: Any) -> dict[str, Any]:
    """The figures of both sides of one case, and their ratios by round."""
    recipe, own, least = CASES[case]
    sides: dict[str, list[dict[str, Any]]] = {side: [] for side in trees}
    for number in range(given.rounds):
        for side, tree in trees.items() if number % 2 else reversed(trees.items()):
            arguments = {
                "recipe": recipe, "overrides": [*own, *overrides], "steps": given.steps,
                "scored": given.scored, "bare": side == "after" and not number,
            }  # fmt: skip
            sides[side].append(run_side(tree, arguments))
            figures = " ".join(f"{key} {value:.4g}" for key, value in sides[side][-1].items())
            print(f"{case}, {side}: {figures}", flush=True)
    result: dict[str, Any] = {"recipe": recipe, "overrides": [*own, *overrides], "least": least}
    for key, digits in (("images_per_second", 1), ("scored_per_second", 1), ("peak_gib", 2), ("loss", 5)):
        result[key] = {
            side: spread([one[key] for one in found], digits=digits) for side, found in sides.items()
        }
    for key in ("images_per_second", "scored_per_second"):
        pairs = zip(sides["before"], sides["after"], strict=True)
        result[f"ratio_{key}"] = spread([after[key] / before[key] for before, after in pairs], digits=2)
    before, after = (sides[side][0]["loss"] for side in ("before", "after"))
    result["loss_difference"] = round(abs(after - before) / before, 5)
    first = sides["after"][0]
    result["bare_per_second"] = round(first["bare_per_second"], 1)
    result["engine_over_bare"] = round(first["images_per_second"] / first["bare_per_second"], 3)
    return result


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--before", default="HEAD", help="the commit to compare this tree with")
    options.add_argument("--cases", default=",".join(CASES), help="comma-separated; default: all")
    options.add_argument("--rounds", type=positive, default=2)
    options.add_argument("--steps", type=positive, default=100)
    options.add_argument("--scored", type=positive, default=1000, help="pictures")
    given = options.parse_args()
    if given.tiny:
        given.cases, given.rounds, given.steps, given.scored = "resnet18_32", 1, WARM_UP + 1, 20
    names = given.cases.split(",")
    if unknown := [name for name in names if name not in CASES]:
        refuse(options, f"no case {unknown[0]!r}; known: {', '.join(CASES)}")
    pictures, overrides, found = begin(given, f"beside {given.before}")
    overrides += ["data.batch_size=20"] if given.tiny else []
    commit = subprocess.run(
        ["git", "rev-parse", "--verify", f"{given.before}^{{commit}}"],
        cwd=REPOSITORY, capture_output=True, text=True,
    )  # fmt: skip
    if commit.returncode:
        refuse(options, f"no commit {given.before!r} in {REPOSITORY}")
    known: dict[str, Any] = {}
    if given.out and given.out.exists():  # Cases that were measured before, by other calls.
        known = json.loads(given.out.read_text()).get("cases", {})
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", commit.stdout.strip(), "src"], cwd=REPOSITORY, capture_output=True, check=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        trees = {"before": Path(folder) / "src", "after": REPOSITORY / "src"}
        for name in names:
            case = compare(name, trees, overrides, given)
            known[name] = {**case, "time": found["time"], "git": found["git"], "rounds": given.rounds}
            result = {**found, "pictures": pictures, "before": commit.stdout.strip(), "steps": given.steps}
            write(given.out, "compare_commits", {**result, "scoring_least": SCORING, "cases": known})
    print("\n| case | images a second, before | after | ratio | scoring | loss differs by | engine / bare |")
    print("|---|---|---|---|---|---|---|")
    for name, case in known.items():
        speeds = case["images_per_second"]
        print(
            f"| {name} | {speeds['before']['median']:.0f} | {speeds['after']['median']:.0f} "
            f"| {case['ratio_images_per_second']['median']:.2f} "
            f"| {case['ratio_scored_per_second']['median']:.2f} | {case['loss_difference']:.2%} "
            f"| {case['engine_over_bare']:.2f} |"
        )


if __name__ == "__main__":
    main()
