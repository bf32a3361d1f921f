"""The suite of everything that needs a GPU, rehearsed without one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch
import typer
from benchmarks.gpu_steps import ROWS, Plan, Step

from cifarlab import cli
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.experiments.tutorial import experiments

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")

# What each script says to --help, in one process: nearly all of the time is torch's import.
HELP = """
import contextlib, io, json, pathlib, runpy, sys
scripts, told = sys.argv[1:], {}
sys.path.insert(0, str(pathlib.Path(scripts[0]).parent))
for script in scripts:
    sys.argv = [script, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    told[script] = said.getvalue()
print(json.dumps(told))
"""

# Runs the suite over steps of its own.
DRIVER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import gpu_suite
from gpu_steps import Plan, Step

WAITS = '''
import pathlib, time
try:
    pathlib.Path("begun").touch()
    time.sleep(600)
except KeyboardInterrupt:
    pathlib.Path("saved").touch()
'''

def steps(plan):
    out = plan.out / "writes.part.json"
    return [
        Step("says", ("-c", "print('[1, 2]')")),
        Step("writes", ("-c", f"open({str(out)!r}, 'w').write('{{}}'); raise SystemExit(3)"), out),
        Step("waits", ("-c", WAITS)),
        Step("last", ("-c", "print('ends here')")),
    ]

Plan.steps = steps
gpu_suite.main()
"""


def suite(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(BENCHMARKS / "gpu_suite.sh"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable},
    )


def driven(folder: Path, *options: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", DRIVER, str(BENCHMARKS), "--dry", "--out", str(folder), *options]
    return subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def planned(dry: bool) -> list[Step]:
    return Plan(Path("out"), "graph", dry, Path("train.py"), Path("runs/tiny/0")).steps()


def of_the_package(step: Step) -> tuple[str, ...]:
    """The words after `cifarlab`, also where another script stands before them; none for other steps."""
    words = step.words[1:] if step.words[0].endswith("with_mps.py") else step.words
    return words[2:] if words[:2] == ("-m", "cifarlab") else ()


@needs_bash
def test_a_rehearsed_run_is_kept_and_not_done_again(tmp_path: Path):
    options = ("--dry", "--out", str(tmp_path), "--only")
    first = suite(*options, "^resnet18_baseline_eager$")
    assert first.returncode == 0, first.stdout + first.stderr
    kept = tmp_path / "rehearsal" / "resnet18_baseline_eager.json"
    found = json.loads(kept.read_text())
    assert found["summary"]["epochs_run"] == 1
    assert found["summary"]["recipe"] == "resnet18_baseline"
    assert found["env"]["versions"]["torch"]
    assert [row["epoch"] for row in found["metrics"]] == [1]
    before = kept.stat().st_mtime_ns
    second = suite(*options, "^(resnet18_baseline_eager|profile_eager)$", "--total", "0")
    assert "done: resnet18_baseline_eager; failed: nothing; left: profile_eager." in second.stdout
    assert kept.stat().st_mtime_ns == before
    (attempt,) = json.loads((tmp_path / "rehearsal" / "suite.json").read_text())["resnet18_baseline_eager"]
    assert attempt["end"] == "done"
    assert " -m cifarlab train resnet18_baseline " in attempt["command"]


@needs_bash
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path):
    finished = suite("--out", str(tmp_path / "none"))
    assert finished.returncode == 2
    assert "--dry" in finished.stderr
    assert "CIFARLAB_DATA" in finished.stderr
    assert len(finished.stderr.splitlines()) == 2
    assert not (tmp_path / "none").exists()


def test_a_failed_step_is_told_and_what_it_wrote_does_not_count(tmp_path: Path):
    process = driven(tmp_path, "--only", "says|writes|last")
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "done: says last; failed: writes; left: nothing" in printed
    results = tmp_path / "rehearsal"
    assert json.loads((results / "says.json").read_text())["printed"] == [1, 2]
    assert json.loads((results / "last.json").read_text())["printed"] == "ends here\n"
    assert not (results / "writes.json").exists()
    assert (results / "writes.part.json").exists()
    (attempt,) = json.loads((results / "suite.json").read_text())["writes"]
    assert (attempt["status"], attempt["end"]) == (3, "failed")
    with tarfile.open(results / "results.tar.gz") as archive:
        assert {"says.json", "says.out", "writes.part.json", "suite.json"} <= set(archive.getnames())


def test_a_step_out_of_time_is_asked_to_stop_and_left_for_later(tmp_path: Path):
    process = driven(tmp_path, "--only", "waits|last", "--limit", "5")
    printed, _ = process.communicate()
    assert process.returncode == 0
    assert "done: last; failed: nothing; left: waits (cut off)" in printed
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "rehearsal" / "waits.json").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_reaches_the_step_and_ends_the_suite(tmp_path: Path, how: signal.Signals):
    process = driven(tmp_path, "--only", "waits|last")
    while not (tmp_path / "begun").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(how)
    printed, complaints = process.communicate()
    assert (process.returncode, complaints) == (130, "")
    assert "the same command resumes" in printed
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "rehearsal" / "last.json").exists()


def test_missing_packages_are_named_to_pip_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from benchmarks import gpu_suite

    called: list[list[str]] = []

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        called.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(gpu_suite, "NEEDED", ("pytest>=1", "no-such-package", "rich>=1000"))
    monkeypatch.setattr(gpu_suite.subprocess, "run", run)
    gpu_suite.fill_gaps(tmp_path)
    assert [words[-1] for words in called] == ["no-such-package", "rich>=1000"]
    assert all({"--no-index", "--find-links", str(tmp_path)} <= set(words) for words in called)
    told, _ = gpu_suite.problems(dry=True)
    assert "no-such-package, rich>=1000" in told[0]
    assert "--wheels" in told[0]


def test_the_tests_come_first_and_what_is_not_there_is_left_out():
    names = [step.name for step in planned(dry=False)]
    assert names[0] == "gpu_tests"
    assert len(names) == len(set(names))
    assert {"reproduce_resnet18_pretrained_arcface_mst", "reproduce_resnet18_baseline"} <= set(names)
    without = [step.name for step in Plan(Path("out")).steps()]
    assert "reproduce_resnet18_baseline" in without
    assert "reproduce_resnet18_pretrained" not in without
    assert "compare_timm" in names
    assert "compare_timm" not in without


def test_the_suites_rows_are_the_tutorials_without_resnet50():
    needs_none = {name for name in experiments() if not {"resnet50", "kd"} & set(name.split("_"))}
    assert set(ROWS) == needs_none
    assert len(ROWS) == len(needs_none)


@pytest.mark.parametrize("dry", [False, True])
def test_every_command_of_the_package_is_understood(dry: bool):
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    commands = [words for step in planned(dry) if (words := of_the_package(step))]
    known = set(experiments())
    for name, *words in commands:
        command = group.commands[name]
        given = command.make_context(name, words).params
        if "recipe" in given:
            resolve(read_recipe(given["recipe"]), given["overrides"] or ())
        assert set(given.get("only") or ()) <= known
    names = {words[0] for words in commands}
    assert names == ({"train", "profile"} if dry else {"train", "profile", "ladder", "reproduce"})


def test_no_two_configurations_share_a_runs_folder():
    """A run's folder belongs to one configuration: another one is refused there."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, typer.core.TyperGroup)
    trained: dict[tuple[Path, str], dict[str, object]] = {}
    for step in planned(dry=False):
        command, *words = of_the_package(step) or ("",)
        if command == "train":
            given = group.commands["train"].make_context("train", words).params
            config = resolve(read_recipe(given["recipe"]), given["overrides"] or ()).dump()
            place = given["runs"], given["name"] or given["recipe"]
            assert trained.setdefault(place, config) == config, place
    # What `reproduce` and `ladder` train is called like its recipe and has overrides of their own.
    for words in (step.words for step in planned(dry=False) if {"reproduce", "ladder"} & set(step.words)):
        runs = Path(words[words.index("--runs") + 1])
        assert all(name.startswith("ladder/") for folder, name in trained if folder == runs)
        assert "train.engine=graph" in words


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: where a shell script that stands for NVIDIA's daemon lives, and each word that it is told."""
    control, said = tmp_path / "nvidia-cuda-mps-control", tmp_path / "said"
    told = 'if [ "$1" = -d ]; then words=begun; else read words; fi'
    control.write_text(f"#!/bin/bash\n{told}\necho $CUDA_MPS_PIPE_DIRECTORY $words >> {said}\n")
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return said


def words_until_the_end(said: Path) -> tuple[set[Path], list[str]]:
    """(folders, words) when the daemon has been told to quit, and its folder is gone."""
    end = time.monotonic() + 30
    while True:
        lines = [line.split() for line in said.read_text().splitlines()] if said.exists() else []
        folders = {Path(folder) for folder, _ in lines}
        if lines and lines[-1][1] == "quit" and not any(folder.exists() for folder in folders):
            return folders, [word for _, word in lines]
        assert time.monotonic() < end, lines
        time.sleep(0.05)


WITH_MPS = [sys.executable, str(BENCHMARKS / "with_mps.py"), "-c"]


@needs_bash
def test_a_daemon_of_its_own_lives_as_long_as_the_command(daemon: Path):
    shows = (
        f"import os; print(os.environ['CUDA_MPS_PIPE_DIRECTORY'], 'worked', file=open({str(daemon)!r}, 'a'))"
    )
    for ending, status in (("", 0), ("; raise SystemExit(3)", 3)):
        assert subprocess.run([*WITH_MPS, shows + ending]).returncode == status
        folders, words = words_until_the_end(daemon)
        assert words == ["begun", "worked", "quit"]
        assert len(folders) == 1
        daemon.unlink()


def test_without_the_daemon_it_says_so():
    without = subprocess.run([*WITH_MPS, "print(1)"], env={"PATH": ""}, capture_output=True, text=True)
    assert (without.returncode, without.stdout) == (2, "")
    assert "is not installed" in without.stderr


@needs_bash
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("whom", [os.kill, os.killpg])
def test_whoever_stops_it_stops_the_command_once_and_the_daemon(daemon: Path, how, whom):
    code = (
        "import signal, time\n"
        "for each in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(each, lambda *_: print('asked'))\n"
        "print('up', flush=True); time.sleep(2)"
    )
    process = subprocess.Popen([*WITH_MPS, code], stdout=subprocess.PIPE, text=True, process_group=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    whom(process.pid, how)
    printed = process.communicate(timeout=30)[0]
    expected = ("", -how) if how == signal.SIGKILL else ("asked\n", 0)
    assert (printed, process.returncode) == expected
    assert words_until_the_end(daemon)[1] == ["begun", "quit"]


def test_every_option_of_a_script_is_known():
    scripts = [step.words for step in planned(dry=True) if step.words[0] != "-m"]
    words = [sys.executable, "-c", HELP, *sorted({words[0] for words in scripts})]
    told = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    for script, *options in scripts:
        assert all(option in told[script] for option in options if option.startswith("--")), script
