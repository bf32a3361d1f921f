"""Training and scoring speed of this tree beside an earlier commit of it, in turn.

    python benchmarks/compare_commits.py --before a3f6340 --out benchmarks/results/compare_commits.json

Each side is a process of its own, which trains the same pictures from the same weights. They work in turns
of a few steps, each time another side first: a machine's pace changes within seconds, and so touches both.
The mean loss over all steps shows that both compute the same. `bare` is the same model and optimizer on one
batch that is already there: what the engine adds is seen beside it.
"""

from __future__ import annotations

import contextlib
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
SCRIPT = Path(__file__).with_name("commits_side.py")
STEPS_A_TURN = 5
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


class Side:
    """A process that imports the package below `source`, and works when asked."""

    def __init__(self, source: Path, recipe: str, overrides: Sequence[str]):
        arguments = json.dumps({"recipe": recipe, "overrides": list(overrides)})
        self.source = source
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), arguments],
            env=os.environ | {"PYTHONPATH": str(source)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, name: str, amount: int = 0) -> dict[str, float]:
        """Return the side's answer. Raises RuntimeError, with the last line it said, where it ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({name: amount}) + "\n")
            self.process.stdin.flush()
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.source}: {self.process.stderr.read().strip().splitlines()[-1]}")

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def rates_of_a_round(sides: dict[str, Side], given: Any, number: int) -> dict[str, dict[str, float]]:
    """Each side's pictures a second in a round, trained and scored, from turns that alternate."""
    turns = max(1, given.steps // STEPS_A_TURN)
    tasks = (
        ("images_per_second", "train", given.steps // turns, turns),
        ("scored_per_second", "score", max(1, given.scored // turns), turns),
    )
    rates: dict[str, dict[str, float]] = {name: {} for name in sides}
    for key, task, amount, count in tasks:
        sums = {name: [0.0, 0.0] for name in sides}
        for turn in range(count):
            names = list(sides) if (number + turn) % 2 else list(reversed(sides))
            for name in names:
                found = sides[name].ask(task, amount)
                sums[name][0] += found["pictures"]
                sums[name][1] += found["seconds"]
        for name, (pictures, seconds) in sums.items():
            rates[name][key] = pictures / seconds
    return rates


def compare(case: str, trees: dict[str, Path], overrides: Sequence[str], given: Any) -> dict[str, Any]:
    """The figures of both sides of one case, and their ratios by round."""
    recipe, own, least = CASES[case]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side(tree, recipe, [*own, *overrides])) for name, tree in trees.items()
        }
        for side in sides.values():  # One prepares while the other waits.
            side.ask("train", WARM_UP)
            side.ask("score", max(1, given.scored // 10))
        for number in range(given.rounds):
            for name, rates in rates_of_a_round(sides, given, number).items():
                found[name].append(rates)
                figures = " ".join(f"{key} {value:.4g}" for key, value in rates.items())
                print(f"{case}, round {number + 1}, {name}: {figures}", flush=True)
        ends = {name: side.ask("end") for name, side in sides.items()}
        bare_steps = max(1, given.steps // 4)
        engine, bare = (sides["after"].ask(task, bare_steps) for task in ("train", "bare"))
    result: dict[str, Any] = {"recipe": recipe, "overrides": [*own, *overrides], "least": least}
    for key in ("images_per_second", "scored_per_second"):
        result[key] = {name: spread([one[key] for one in rates], digits=1) for name, rates in found.items()}
        pairs = zip(found["before"], found["after"], strict=True)
        result[f"ratio_{key}"] = spread([after[key] / before[key] for before, after in pairs], digits=3)
    for key, digits in (("peak_gib", 2), ("loss", 5)):
        result[key] = {name: round(end[key], digits) for name, end in ends.items()}
    before, after = ends["before"]["loss"], ends["after"]["loss"]
    result["loss_difference"] = round(abs(after - before) / before, 5)
    bare_rate = bare["pictures"] / bare["seconds"]
    result["bare_per_second"] = round(bare_rate, 1)
    result["engine_over_bare"] = round(engine["pictures"] / engine["seconds"] / bare_rate, 3)
    return result


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--before", default="HEAD", help="the commit to compare this tree with")
    options.add_argument("--cases", default=",".join(CASES), help="comma-separated; default: all")
    options.add_argument("--rounds", type=positive, default=5)
    options.add_argument("--steps", type=positive, default=50, help="of a side in a round")
    options.add_argument("--scored", type=positive, default=1000, help="pictures of a side in a round")
    given = options.parse_args()
    if given.tiny:
        given.cases, given.rounds, given.steps, given.scored = "resnet18_32", 1, 2, 20
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
