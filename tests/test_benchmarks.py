"""The benchmarks run and say what they should; what they measure decides nothing here."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from cifarlab import augment  # noqa: F401  fills the registry
from cifarlab.config.recipes import import_and_validate, read_recipe, resolve
from cifarlab.core.registries import AUGMENTS, MIXERS
from cifarlab.training.saver import Saver

REPOSITORY = Path(__file__).resolve().parent.parent
BENCHMARKS = REPOSITORY / "benchmarks"

Tiny = Callable[..., tuple[str, dict[str, Any]]]


@pytest.fixture
def run_tiny(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Tiny:
    """Run a benchmark for seconds, in this process: (what it printed, what it wrote)."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.chdir(tmp_path)
    # A benchmark may set it for itself.
    monkeypatch.setenv("CIFARLAB_CACHE", os.environ["CIFARLAB_CACHE"])

    def run(name: str, *options: str) -> tuple[str, dict[str, Any]]:
        out = tmp_path / "new" / f"{name}.json"
        script = str(BENCHMARKS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, "--tiny", "--out", str(out), *options])
        importlib.import_module(name).main()
        result = json.loads(out.read_text())
        assert result["benchmark"] == name
        told = {
            "time", "versions", "hardware", "git", "load_before", "clocks_before", "clocks_after", "pictures"
        }  # fmt: skip
        assert told <= result.keys()
        assert result["versions"]["torch"]
        assert result["hardware"]["cores"]
        return capsys.readouterr().out, result

    return run


def check_spread(figures: dict[str, Any], rounds: int, best: Any) -> None:
    assert len(figures["rounds"]) == rounds
    assert min(figures["rounds"]) > 0
    assert figures["best"] == best(figures["rounds"])
    assert min(figures["rounds"]) <= figures["median"] <= max(figures["rounds"])


def test_compare_commits_trains_both_trees_and_sees_their_losses(run_tiny: Tiny):
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no git history beside the tests: there is no commit to compare with")
    printed, result = run_tiny("compare_commits")
    (case,) = result["cases"].values()
    assert "| resnet18_32 |" in printed
    for side in ("before", "after"):
        for key in ("images_per_second", "scored_per_second"):
            check_spread(case[key][side], 1, max)
        assert case["peak_gib"][side] > 0.1
    # HEAD beside the tree: the same code, but for what is not committed yet.
    assert case["loss_difference"] < 0.005


def test_cpu_train_compares_every_contestant_on_equal_terms(run_tiny: Tiny):
    printed, result = run_tiny("cpu_train")
    speeds = result["images_per_second"]
    assert list(speeds) == [
        "tutorial, plain, 0 workers", "tutorial, plain, 2 workers", "ours, plain",
        "tutorial, policy, 0 workers", "tutorial, policy, 2 workers", "ours, policy",
    ]  # fmt: skip
    for name, figures in speeds.items():
        check_spread(figures, 2, max)
        assert f"| {name} |" in printed
    assert set(result["tutorial_counted"].values()) < set(speeds)
    for kind in ("plain", "policy"):
        counted = speeds[result["tutorial_counted"][kind]]["median"]
        assert counted == max(speeds[f"tutorial, {kind}, {workers} workers"]["median"] for workers in (0, 2))
        ratio = result["ratios"][f"ours / tutorial, {kind}"]
        assert ratio["of_medians"] == pytest.approx(speeds[f"ours, {kind}"]["median"] / counted, rel=0.01)
        assert ratio["required"] == 1.3
        assert len(ratio["rounds"]) == 2
    assert result["ratios"]["ours, policy / plain"]["required"] == 0.9
    losses = result["first_losses"]
    assert losses["largest_difference_of_pictures"] < 1e-6
    assert losses["ours"] == pytest.approx(losses["tutorial"], rel=0.05)
    assert "first loss, same weights and pictures" in printed


def test_augment_times_every_part_and_torchvisions_policies(run_tiny: Tiny):
    printed, result = run_tiny("augment")
    # Other tests of this process may have registered parts of their own.
    for kind, registry in (("parts", AUGMENTS), ("mixers", MIXERS)):
        parts = [part for part in registry.parts() if part.call.__module__.startswith("cifarlab.augment.")]
        assert set(result[kind]) == {part.name for part in parts}
    step = result["step"]["median"]
    for name, figures in (*result["parts"].items(), *result["mixers"].items()):
        check_spread(figures["microseconds"], 1, min)
        median = figures["microseconds"]["median"]
        assert figures["share_of_step"] == pytest.approx(median / (median + step), abs=1e-4)
        assert name in printed
    for name, kinds in result["torchvision"].items():
        for figures in kinds.values():
            median = result["parts"][name]["microseconds"]["median"]
            assert figures["times_ours"] == pytest.approx(
                figures["microseconds"]["median"] / median, abs=0.01
            )


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="this system does not tell a child's peak memory")
def test_startup_measures_whole_processes(run_tiny: Tiny):
    printed, result = run_tiny("startup")
    figures = result["figures"]
    check_spread(figures["help_seconds"], 1, min)
    check_spread(figures["resnet18_baseline"]["first_step_seconds"], 1, min)
    # A process that trains holds at least torch, and at most what a small machine has.
    assert 100e6 < figures["resnet18_baseline"]["peak_memory_bytes"] < 20e9
    assert result["limits"] == {
        "help_seconds": 0.5, "first_step_seconds": 10.0, "peak_memory_bytes": 2.5e9
    }  # fmt: skip
    assert "| peak memory, resnet18_baseline |" in printed
    assert "| 2.5 GB |" in printed


def test_compare_seed_runs_whole_epochs_of_each_side(run_tiny: Tiny):
    printed, result = run_tiny("compare_seed")
    found = result["sizes"]["32"]
    equality = found["equality"]
    assert equality["gradients"] < 1e-4
    assert equality["losses"] < 5e-3
    assert equality["pictures"] == 0
    seconds = found["seconds"]
    assert list(seconds) == ["A, 1 and 1 workers", "A', 1 and 1 workers", "B"]
    for figures in seconds.values():
        check_spread(figures, 1, min)
    for side in ("A", "A'"):
        ratio = found["ratios"][f"B over {side}"]
        counted = seconds[ratio["counted"]]["median"]
        assert ratio["counted"].startswith(f"{side},")
        assert len(ratio["rounds"]) == 1
        assert ratio["of_medians"] == pytest.approx(counted / seconds["B"]["median"], rel=0.01)
    assert found["ratios"]["B over A"]["required"] == 1.7
    assert all(0 < share < 1 for share in found["outside"]["rounds"])
    assert printed.index("gradients of the first step") < printed.index("round 1")


def test_scaling_varies_one_thing_at_a_time(run_tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    scaling = importlib.import_module("scaling")
    in_a_process = scaling.measured_by

    def measured(script: str, words: list[str]) -> dict[str, float]:
        """As the benchmark does, but that runs one after the other share this process."""
        at_once = int(words[1]) if script == scaling.SEEDS_SCRIPT else 1
        if at_once > 1:
            return in_a_process(script, words)
        with monkeypatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
            patch.setattr(sys, "argv", ["-c", *words])
            patch.setattr(Saver, "flush", Saver.flush)  # The script puts another in its place.
            exec(script, {"__name__": "__main__"})
        return json.loads(said.getvalue().splitlines()[-1])

    monkeypatch.setattr(scaling, "measured_by", measured)
    printed, result = run_tiny("scaling")
    (key,) = result["varied"]
    rows = result["varied"][key]["rows"]
    assert key == "epochs"
    assert [*rows] == ["1", "2", "3"]
    for row in rows.values():
        check_spread(row["seconds"], 1, min)
        assert row["peak_memory_bytes"] > 100e6
    line = result["varied"][key]["line"]
    for value, row in rows.items():
        off = abs(row["seconds"]["median"] - line["start"] - line["slope"] * int(value))
        assert off <= line["largest_deviation"] * row["seconds"]["median"] + 1e-3
    assert "off a line at most" in printed
    ((seeds, found),) = result["seeds"].items()
    assert seeds == "2"
    assert "2 seeds at once: training" in printed
    for kind in ("whole", "training"):
        in_turn, at_once = found["in turn"][kind], found["at once"][kind]
        check_spread(in_turn, 1, min)
        check_spread(at_once, 1, min)
        ratio = in_turn["median"] / at_once["median"]
        assert found["times_faster"][kind] == pytest.approx(ratio, rel=0.01)
    for way in ("in turn", "at once"):
        assert found[way]["training"]["median"] < found[way]["whole"]["median"]
    # Three processes hold torch each, where one did.
    one, three = (found[way]["peak_memory_bytes"] for way in ("in turn", "at once"))
    assert one > 100e6
    assert 1.5 * one < three < 20e9


def test_distillation_speed_compares_a_student_with_itself_taught(run_tiny: Tiny):
    printed, result = run_tiny("distillation_speed")
    one, other = result["epoch_seconds"].values()
    for figures in (one, other):
        check_spread(figures, 2, min)
    ratio = result["ratio"]
    assert ratio["of_medians"] == pytest.approx(other["median"] / one["median"], rel=0.01)
    assert ratio["required"] == 1.3
    assert len(ratio["rounds"]) == 2
    assert result["fill"]["pictures"] == 20
    assert result["fill"]["seconds"] > 0
    assert "20 answers for view 1 of 1" in printed
    assert "filling the cache" in printed


@pytest.mark.parametrize(("options", "scored"), [((), "test"), (("--hold-out", "100"), "val")])
def test_speed_times_a_cold_start_and_reads_the_test_set_once(
    run_tiny: Tiny, options: tuple[str, ...], scored: str
):
    printed, result = run_tiny("speed", *options, "--seeds", "2", "--override", "optim.lr=0.1")
    first, second = result["runs"]
    assert result["config"]["optim"]["lr"] == 0.1
    assert result["config"]["model"]["backbone"]["widths"] == [
        8,
        8,
        16,
    ]
    assert result["config"]["data"]["val"] == int(scored == "val") * 100
    for seed, run in enumerate((first, second)):
        assert run["seed"] == seed
        assert 0 < sum(run["epoch_seconds"]) < run["seconds"] + 0.02
        assert f"{scored}_top1" in run
        assert len({"val_top1", "test_top1"} & run.keys()) == 1
        assert [row["epoch"] for row in run["curve"]] == [1, 2, 3, 4]
        assert all(("val/top1" in row) == (scored == "val") for row in run["curve"])
        assert f"| {seed} | {100 * run[f'{scored}_top1']:.2f} | {run['seconds']:.1f} |" in printed
    assert first["curve"] != second["curve"]
    mean = (first[f"{scored}_top1"] + second[f"{scored}_top1"]) / 2
    assert result["mean"][f"{scored}_top1"] == pytest.approx(mean, abs=1e-5)
    assert result["required"] == {"test_top1": 0.7, "seconds": 1200}
    again, grown = run_tiny("speed", *options, "--seeds", "3", "--override", "optim.lr=0.1")
    assert grown["runs"][:2] == result["runs"]
    assert len(grown["runs"]) == 3
    assert "mean of 3: " in again
    assert result["build_seconds"] > 0
    assert "asked: 70 %, in 20 minutes" in printed


def expected_rows(name: str, result: dict[str, Any]) -> list[str]:
    """The beginnings of the rows of docs/benchmarks.md that a result calls for."""
    if name == "cpu_train":
        speeds, ratios = result["images_per_second"].items(), result["ratios"].items()
        rows = [f"| {label} | {speed['best']:.0f} | {speed['median']:.0f} |" for label, speed in speeds]
        return rows + [f"| {label} | {ratio['of_medians']:.2f} |" for label, ratio in ratios]
    if name == "distillation_speed":
        seconds = result["epoch_seconds"].items()
        rows = [f"| {label} | {figure['best']:.2f} | {figure['median']:.2f} |" for label, figure in seconds]
        return [*rows, f"ratio of medians {result['ratio']['of_medians']:.2f} ("]
    if name.startswith("speed_"):
        runs = [(run["seed"], run) for run in result["runs"]] + [("mean", result["mean"])]
        return [
            f"| `{result['recipe']}` | {seed} | {100 * it['test_top1']:.2f} | {it['seconds'] / 60:.1f} |"
            for seed, it in runs
        ]
    if name.startswith("compare_seed"):
        rows = []
        for size, found in result["sizes"].items():
            seconds, ratios = found["seconds"].items(), found["ratios"].items()
            rows += [f"| {size} px | {who} | {it['best']:.2f} | {it['median']:.2f} |" for who, it in seconds]
            rows += [f"| {size} px | {what} | {it['of_medians']:.2f} | " for what, it in ratios]
            rows += [f"| {min(it['rounds']):.2f} to {max(it['rounds']):.2f} |" for _, it in ratios]
            rows.append(
                f"| {size} px | B outside steps and evaluations | {found['outside']['median']:.1%} | "
            )
        return rows
    if name == "compare_timm":
        return [
            f"| {who} | {it['epoch']['median']:.2f} | {it['rest']['median']:.2f} | {it['first']:.2f} |"
            for who, it in result["seconds"].items()
        ]
    if name.startswith("scaling"):
        rows = []
        for key, found in result["varied"].items():
            for value, row in found["rows"].items():
                memory = row["peak_memory_bytes"] / 1e9
                rows.append(f"| {key} | {value} | {row['seconds']['median']:.2f} | {memory:.2f} |")
            if "line" in found:
                rows.append(f"{key}: {found['line']['largest_deviation']:.1%} off a line at most")
        for seeds, found in result["seeds"].items():
            for way in ("in turn", "at once"):
                whole, training = (found[way][kind]["median"] for kind in ("whole", "training"))
                row = f"| {seeds} | {way} | {whole:.2f} | {training:.2f} |"
                # The older file has no memory of several seeds.
                memory = found[way].get("peak_memory_bytes")
                rows.append(row if memory is None else f"{row} {memory / 1e9:.2f} |")
        return rows
    if name == "live_taps":
        rows = [
            f"Steps are {result['ratio']:.2f} times as fast",
            f"could save about {100 * result['optimizer_bound']:.0f} %",
        ]
        for label, it in result["seconds"].items():
            count = result["weights"].get(label)
            what = f"optimizer, {label} ({count:,})" if count else f"step, {label}"
            rows.append(f"| {what} | {1e3 * it['best']:.1f} | {1e3 * it['median']:.1f} |")
        return rows
    if name == "augment":
        parts = {**result["parts"], **{f"{mixer} (mixer)": it for mixer, it in result["mixers"].items()}}
        return [
            f"| `{part}` | {it['microseconds']['median']:.1f} | {100 * it['share_of_step']:.1f} % |"
            for part, it in parts.items()
        ] + [
            f"| `{policy}` | {parts[policy]['microseconds']['median']:.1f} | "
            + " | ".join(
                f"{it['microseconds']['median']:.1f} | {it['times_ours']:.1f}" for it in kinds.values()
            )
            for policy, kinds in result["torchvision"].items()
        ]
    rows = []
    for label, figures in result["figures"].items():
        title = "`cifarlab --help`" if label == "help_seconds" else f"start to first step, {label}"
        times = figures if label == "help_seconds" else figures["first_step_seconds"]
        rows.append(f"| {title} | {times['median']:.2f} s | {max(times['rounds']):.2f} s |")
        if "peak_memory_bytes" in figures:
            rows.append(f"| peak memory, {label} | {figures['peak_memory_bytes'] / 1e9:.2f} GB |")
    return rows


@pytest.mark.parametrize(
    "name",
    [
        "cpu_train", "startup", "augment", "distillation_speed", "speed_cpu_70", "speed_cpu_75",
        "compare_seed", "compare_seed_avx2", "compare_timm", "scaling", "scaling_amx", "live_taps",
    ],
)  # fmt: skip
def test_figures_in_the_documentation_are_those_in_the_results(name: str):
    text = (REPOSITORY / "docs" / "benchmarks.md").read_text()
    text = re.sub(r"<!-- /?result.*?-->", "", text)
    path = BENCHMARKS / "results" / f"{name}.json"
    rows = expected_rows(name, json.loads(path.read_text())) if path.is_file() else ["not measured yet"]
    assert not [row for row in rows if row not in text]


@pytest.mark.parametrize("name", ["cpu_70", "cpu_75"])
def test_the_time_to_an_accuracy_is_that_of_the_recipe_as_it_is(name: str):
    found = json.loads((BENCHMARKS / "results" / f"speed_{name}.json").read_text())
    as_it_is = resolve(read_recipe(f"speed/{name}")).dump()
    # Options that came later stand at their defaults.
    measured = import_and_validate(found["config"]).dump()
    for config in (measured, as_it_is):
        # Where it ran, and where the pictures lay.
        config["train"]["device"] = config["data"]["root"] = None
    assert found["recipe"] == f"speed/{name}"
    assert found["overrides"] == []
    assert found["hold_out"] == 0
    assert measured == as_it_is
    accuracy = statistics.mean(run["test_top1"] for run in found["runs"])
    minutes = statistics.mean(run["seconds"] for run in found["runs"]) / 60
    told = str(read_recipe(f"speed/{name}").about["measured"])
    assert told == f"{100 * accuracy:.2f} ({len(found['runs'])} seed{'s' * (len(found['runs']) > 1)})"
    assert accuracy >= found["required"]["test_top1"]
    assert 60 * minutes <= found["required"]["seconds"]


# Reads what timm's script reads, in its options, and trains nothing.
STAND_IN = """
import sys, time
from pathlib import Path
given = dict(zip(sys.argv[1:], sys.argv[2:]))
for part, count in (("train", 40), ("validation", 100)):
    folders = sorted(path.name for path in Path(given["--data-dir"], part).iterdir())
    assert folders == [f"{label:03d}" for label in range(100)] and given["--num-classes"] == "100"
    assert len(list(Path(given["--data-dir"], part).rglob("*.png"))) == count
assert given["--model"] == "resnet18" and given["--batch-size"] == "20" and given["--seed"] == "0"
slow = 1 + ("--torchcompile" in sys.argv) + 2 * ("--amp" not in sys.argv)
time.sleep(0.05 * int(given["--epochs"]) * slow)
"""


def test_compare_timm_tells_what_an_epoch_costs(
    run_tiny: Tiny, tmp_path: Path, cifarlab: Any, monkeypatch: pytest.MonkeyPatch
):
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    options = ("--timm-train", str(script), "--rounds", "1", "--device", "cpu")
    compare_timm = importlib.import_module("compare_timm")
    seconds_of, ours = compare_timm.seconds_of, []

    def measured(command: Sequence[str]) -> float:
        """As the benchmark does, but of our three processes the later two are calls."""
        if command[1] == "-m":
            ours.append(command)
            if len(ours) > 1:
                begun = time.perf_counter()
                assert cifarlab(*command[3:])[0] == 0
                return time.perf_counter() - begun
        return seconds_of(command)

    monkeypatch.setattr(compare_timm, "seconds_of", measured)
    printed, result = run_tiny("compare_timm", *options)
    for figures in result["seconds"].values():
        assert len(figures["epoch"]["rounds"]) == len(figures["rest"]["rounds"]) == 1
        assert figures["first"] > 0
    others = ["timm, float32", "timm", "timm, compiled"]
    assert list(result["seconds"]) == [*others, "ours"]
    assert (result["train"], result["val"]) == (40, 100)
    assert result["epochs"]["ours"] == [1, 3]
    for name in others:
        medians = [result["seconds"][who]["epoch"]["median"] for who in (name, "ours")]
        ratio = result["ratios"][f"ours over {name}"]
        assert ratio["of_medians"] == pytest.approx(medians[0] / medians[1], rel=0.02)
        assert f"ours over {name}: " in printed


def test_live_taps_finds_the_weights_that_no_picture_moves(run_tiny: Tiny):
    printed, result = run_tiny("live_taps")
    # A ResNet-18's last stage: 4 of 9 taps live where 2x2 becomes 1x1, then 1 of 9 in three convolutions.
    dead = 512 * (5 * 256 + 3 * 8 * 512)
    assert result["weights"]["all weights"] - result["weights"]["live weights"] == dead
    medians = {label: it["median"] for label, it in result["seconds"].items()}
    ratio = medians["torch's convolutions"] / medians["live taps"]
    assert result["ratio"] == pytest.approx(ratio, abs=1e-3)
    assert f"{ratio:.2f} times as fast" in printed
    saved = (medians["all weights"] - medians["live weights"]) / medians["live taps"]
    assert result["optimizer_bound"] == pytest.approx(saved, abs=1e-4)


def test_compare_timm_says_how_to_get_the_script(tmp_path: Path):
    words = [sys.executable, str(BENCHMARKS / "compare_timm.py"), "--tiny"]
    finished = subprocess.run(words, capture_output=True, text=True)
    assert finished.returncode == 2
    assert "github.com/huggingface/pytorch-image-models" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_losses_of_a_device_are_held_against_the_cpus(run_tiny: Tiny):
    options = ("--device", "cpu", "--engines", "eager", "--steps", "2", "--recipes", "resnet18_augment")
    _, result = run_tiny("gpu_losses", *options)
    # The same arithmetic on the same device, in the same order.
    assert result["apart"] == {"resnet18_augment, eager": {"gradients": 0.0, "mean_loss": 0.0}}


def test_a_device_that_computes_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from benchmarks import gpu_losses

    weights = {"a": torch.tensor([3.0, 4.0]), "b": torch.zeros(2)}
    reference = ([weights, weights], [2.0, 4.0])

    def judged(later: dict[str, torch.Tensor], losses: list[float]) -> tuple[dict[str, float], bool]:
        figures = gpu_losses.apart(reference, ([weights, {**weights, **later}], losses))
        return figures, gpu_losses.is_close(figures)

    assert judged({}, [2.0, 4.0]) == ({"gradients": 0.0, "mean_loss": 0.0}, True)
    figures, close = judged({"a": torch.tensor([3.0, 4.5])}, [2.0, 4.0])
    assert figures["gradients"] == pytest.approx(0.1)
    assert not close
    assert not judged({"b": torch.tensor([0.0, 1.0])}, [2.0, 4.0])[1]
    assert not judged({"a": torch.tensor([3.0, float("nan")])}, [2.0, 4.0])[1]
    assert not judged({}, [2.0, float("nan")])[1]
    assert judged({}, [2.0, 4.06])[0]["mean_loss"] == pytest.approx(0.01)


def test_tests_that_need_a_gpu_are_counted_by_how_they_ended(tmp_path: Path):
    words = [
        sys.executable,
        str(BENCHMARKS / "gpu_tests.py"),
        "--tiny",
        "--out",
        str(tmp_path / "found.json"),
    ]
    subprocess.run(words, check=True, capture_output=True)
    result = json.loads((tmp_path / "found.json").read_text())
    assert result["counts"]["failed"] == 0
    assert result["counts"]["passed"] + result["counts"]["skipped"] > 10
    assert "tests/engine/test_graphs.py" in result["files"]
    assert "tests/runs/test_naming.py" not in result["files"]
