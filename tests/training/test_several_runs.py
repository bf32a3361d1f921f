"""Several runs at once: each is the run alone; stops, errors and deaths leave every one saved and named."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cifarlab.core import checkpoints, files
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.experiments import reproduce
from cifarlab.experiments.tutorial import experiments
from cifarlab.runs.folder import Run
from cifarlab.runs.signals import Interrupted, StopRequest
from cifarlab.training import several_runs, worker
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.several_runs import Task, train_all, usual_at_once
from tests.tiny import PARTS, TINY, once, summary_values, tiny_config, train_tiny
from tests.training.test_loop import STATEFUL, assert_same_run


def lines_of(progress: TrainingProgress) -> list[str]:
    return progress.console.file.getvalue().splitlines()


@pytest.fixture
def progress():
    return TrainingProgress(Console(file=io.StringIO(), width=500))


def test_runs_at_once_are_the_runs_alone(tmp_path, monkeypatch, progress):
    """Bit for bit, at an equal number of threads, though none of the data were there yet."""
    (tmp_path / "spy.py").write_text(
        "import os\nfrom pathlib import Path\n"
        "Path(__file__).with_name(f'{os.getpid()}.threads').write_text(os.environ['OMP_NUM_THREADS'])\n"
    )
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    # More pictures than are drawn again each time.
    words = (*STATEFUL, f"imports=[{PARTS}, {tmp_path / 'spy.py'}]",
             "data.dataset={name: synthetic, train: 4100, test: 10}", "data.limit=150")  # fmt: skip
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    configs = [tiny_config(*words, f"train.seed={seed}") for seed in (0, 1)]
    files = [{"path": "own.yaml", "sha256": "1234"}]
    runs = [Run(tmp_path / "demo" / str(seed), recipe="demo", recipe_files=files) for seed in (0, 1)]
    tasks = [Task(config, run, ("beware",)) for config, run in zip(configs, runs, strict=True)]
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        train_all(tasks, 2, progress)
        torch.set_num_threads(1)
        for seed, run in enumerate(runs):
            alone, summary = train_tiny(tmp_path / "alone" / str(seed), *words, f"train.seed={seed}")
            assert_same_run(run, alone)
            there = run.finished()
            assert there.to_json().keys() == summary.to_json().keys()
            assert there.warnings == ["beware"]
            assert json.loads(run.env_path.read_text())["recipes"] == files
            for each in (run, alone):
                assert json.loads(each.env_path.read_text())["hardware"]["threads"] == 1
    finally:
        torch.set_num_threads(before)
    said = lines_of(progress)
    for seed in (0, 1):
        mine = [line for line in said if f"demo/{seed}" in line]
        assert [line.partition("  ")[0] for line in mine if "  epoch " in line] == [f"demo/{seed}"] * 2
        assert f"demo/{seed}  warning: beware" in mine
        assert mine[0].startswith(f"{tmp_path / 'demo' / str(seed)}: reading synthetic")
        assert mine[-1].startswith(f"{tmp_path / 'demo' / str(seed)}: train ")
    own = tmp_path / f"{os.getpid()}.threads"
    assert [path.read_text() for path in tmp_path.glob("*.threads") if path != own] == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_a_parent_that_is_killed_leaves_no_orphans(tmp_path):
    """Not by forks, as below: of two processes, each would hold the other's line to the parent open."""
    words = ["train", "demo", *once(*TINY, "train.epochs=5000"), "--seeds", "2", "--at-once", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cifarlab", *words, "--runs", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, epochs = "", {"demo/0": 0, "demo/1": 0}
    for line in process.stdout or ():
        out += line
        if " epoch " in line:
            epochs[line.partition("  ")[0]] += 1
        if min(epochs.values()) > 0:
            break
    assert min(epochs.values()) > 0, out + process.communicate()[1]
    process.kill()
    # Whoever is alive holds the pipes open.
    _, err = process.communicate(timeout=120)
    assert err == ""
    for seed in (0, 1):
        saved = checkpoints.load_checkpoint(Run(tmp_path / "demo" / str(seed)).last_path, ())
        assert saved["step"] >= 7 * epochs[f"demo/{seed}"]


# What follows puts a function in the place of `train`, in processes that are forked: they start in no time.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


class Crew:
    """Called with behaviours: a task for each, in whose process `behaviour(run, log)` is called.

    What is written by `log`, there or here, `words` reads.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "log"
        self.path.touch()

    def __call__(self, *behaviours: Callable) -> list[Task]:
        self.behaviours = behaviours
        return [
            Task(tiny_config(f"train.seed={seed}"), Run(self.folder / "demo" / str(seed)))
            for seed in range(len(behaviours))
        ]

    def train(self, config, run, *, progress, **options):
        seed = config.train.seed
        self.log("start", seed)
        self.progress = progress
        self.behaviours[seed](run, self.log)
        self.log("end", seed)

    def log(self, *words):
        with self.path.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def words(self) -> list[str]:
        return self.path.read_text().splitlines()

    def starts(self) -> list[str]:
        return [word for word in self.words() if word.startswith("start")]

    def until(self, *words):
        """Wait until all of them have been written down."""
        end = time.monotonic() + 30
        while not {*words} <= {*self.words()}:
            assert time.monotonic() < end, self.words()
            time.sleep(0.01)


@pytest.fixture
def crew(tmp_path, monkeypatch):
    monkeypatch.setattr(several_runs, "CONTEXT", multiprocessing.get_context("fork"))
    crew = Crew(tmp_path)
    for module in (several_runs, worker):
        monkeypatch.setattr(module, "train_run", crew.train)
    return crew


def moment(run, log):
    time.sleep(0.1)


def endless(run, log):
    """A run that trains until it is asked to stop."""
    with StopRequest() as asked:
        log("training", run.folder.name)
        while asked.signal is None:
            time.sleep(0.01)
        log("saved", run.folder.name)
        asked.raise_interrupted(run, "epoch 1")


def unprepared(run, log):
    """A run that reads its data until somebody stops it."""
    log("reading", run.folder.name)
    try:
        time.sleep(60)
    finally:
        log("gone", run.folder.name)


def raises(error, crew, *after):
    def behaviour(run, log):
        crew.until(*after)
        raise error

    return behaviour


def test_as_many_at_once_as_asked_in_order(crew, progress):
    def meets(run, log):
        crew.until("start 0", "start 1")

    train_all(iter(crew(meets, meets, moment, moment, moment)), 2, progress)
    now = 0
    for word in crew.words():
        now += 1 if word.startswith("start") else -1
        assert 0 <= now <= 2
    starts = crew.starts()
    assert {*starts[:2]} == {"start 0", "start 1"}
    assert starts[-1] == "start 4"
    assert len(starts) == 5


@pytest.mark.parametrize(
    ("free", "fit"), [(0.0, 1), (1.24, 1), (1.26, 2), (2.6, 3), (100.0, 4)], ids=lambda given: str(given)
)
def test_the_first_epoch_shows_how_many_fit(crew, progress, monkeypatch, free, fit):
    """Each needs a GiB, and may later need a quarter more."""
    monkeypatch.setattr(worker, "_room", lambda device: (1 << 30, int(free * 2**30)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)

    def trains(run, log):
        log("threads", os.environ["OMP_NUM_THREADS"])
        crew.progress.start(2, 0, 1, "last")
        for epoch in (1, 2):
            time.sleep(0.1)
            log("epoch", epoch)
            crew.progress.epoch({"epoch": epoch, "lr": 0.1, "images_per_second": 1.0}, False)
            if fit > 1 and epoch == 1:
                crew.until("start 1")

    train_all(crew(*[trains] * 6), 4, progress, by_memory=True)
    words, now, most = crew.words(), 0, 0
    assert words[2] == "epoch 1", "the first is alone until then"
    # It has the share of four, which might have been started beside it; the others share the cores.
    threads = [word for word in words if word.startswith("threads")]
    assert threads == ["threads 3", *[f"threads {12 // fit}"] * 5]
    for word in words:
        now += word.startswith("start") - word.startswith("end")
        most = max(most, now)
    assert most <= fit
    assert fit == 1 or most > 1
    assert sorted(crew.starts()) == [f"start {seed}" for seed in range(6)]
    told = [line for line in lines_of(progress) if "at once" in line]
    assert told == [f"demo/0 needs 1.0 GiB of GPU memory, {free:.1f} GiB are free: training {fit} at once"]


@pytest.mark.parametrize(("device", "most"), [("cpu", 1), ("cuda", 16)])
def test_nobody_says_how_many_at_once(cifarlab, tmp_path, monkeypatch, device, most):
    monkeypatch.setattr(several_runs, "pick_device", lambda name: torch.device(device))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    asked = []
    monkeypatch.setattr(
        "cifarlab.training.several_runs.train_all", lambda *rest, **more: asked.append((rest[1], more))
    )
    assert usual_at_once(tiny_config()) == most
    # What these take, their first epoch does not show.
    for words in (("data.val=0", "train.select=last"), ("data.multi_scale={sizes: [16, 24]}",)):
        assert usual_at_once(tiny_config(*words)) == 1
    monkeypatch.setattr("cifarlab.commands.train._print_over_seeds", lambda *rest: None)
    for words in (("--seeds", 8), ("--seeds", 20), ("--seeds", 20, "--at-once", 3)):
        assert cifarlab("train", "demo", *TINY, "--runs", tmp_path, *words)[0] == 0
    by_memory = [{"fresh": False, "by_memory": told} for told in (True, True, False)]
    assert asked == list(zip((min(8, most), most, 3), by_memory, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeds_at_once_on_a_gpu_are_the_seeds_alone(tmp_path, progress):
    words = ("train.device=cuda", "train.deterministic=true", "train.engine=graph", "train.epochs=6")
    configs = [tiny_config(*words, f"train.seed={seed}") for seed in range(3)]
    runs = [Run(tmp_path / "demo" / str(seed), recipe="demo") for seed in range(3)]
    tasks = [Task(config, run) for config, run in zip(configs, runs, strict=True)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_all(tasks, 3, progress, by_memory=True)
        for seed, run in enumerate(runs):
            alone, _ = train_tiny(tmp_path / "alone" / str(seed), *words, f"train.seed={seed}")
            assert_same_run(run, alone)
    finally:
        torch.set_num_threads(before)
    assert any(line.endswith(": 3 at once") for line in lines_of(progress))


def test_a_run_is_trained_once_and_what_is_finished_needs_no_process(crew, progress, tmp_path):
    first, second, finished = crew(moment, moment, lambda run, log: log("in", os.getpid()))
    finished.run.folder.mkdir(parents=True)
    finished.run.write_config(finished.config)
    files.write_json(finished.run.summary_path, summary_values())
    again = first._replace(run=Run(tmp_path / "demo" / ".." / "demo" / "0"))
    train_all([first, second, finished, again, first], 2, progress, fresh=False)
    assert sorted(crew.starts()) == ["start 0", "start 1", "start 2"]
    assert f"in {os.getpid()}" in crew.words()


@pytest.mark.parametrize(
    "error", [ConfigError("not so", ("optim", "lr")), Failure("the loss was not finite")]
)
def test_the_first_error_names_its_run_and_the_others_are_saved(crew, progress, error):
    tasks = crew(endless, raises(error, crew, "training 0"), moment)
    with pytest.raises(type(error)) as found:
        train_all(tasks, 2, progress)
    assert str(found.value) == f"{tasks[1].run}: {error} (saved 1 run that trained beside it)"
    assert "raise error" in str(found.value.__cause__)
    assert "saved 0" in crew.words()
    assert "start 2" not in crew.words()
    assert lines_of(progress) == [f"saved {tasks[0].run} at epoch 1"]


@pytest.mark.parametrize(
    ("death", "message"),
    [
        (lambda run, log: os.kill(os.getpid(), signal.SIGKILL), r"killed \(SIGKILL\).*lower --at-once"),
        (lambda run, log: os._exit(3), "without a message, with exit status 3"),
        (lambda run, log: {}["key"], r"KeyError: 'key' \(.*--debug shows where\)"),
        (lambda run, log: sys.exit(4), "without a message, with exit status 4"),
    ],
)
def test_a_process_that_dies_is_a_failure_with_its_runs_name(crew, progress, death, message):
    tasks = crew(death)
    with pytest.raises(Failure, match=message) as found:
        train_all(tasks, 2, progress)
    assert str(found.value).startswith(f"{tasks[0].run}: ")


def test_a_mistake_may_leave_a_run_out(crew, progress):
    tasks = crew(raises(ConfigError("no weights"), crew), moment, moment)
    left = []
    train_all(tasks, 2, progress, left_out=lambda task, error: left.append((task, str(error))))
    assert left == [(tasks[0], "no weights")]
    assert {"end 1", "end 2"} <= {*crew.words()}


def test_a_run_of_another_configuration_is_refused(crew, progress, tmp_path):
    (task,) = crew(moment)
    other = Run(tmp_path / "demo" / "0")
    other.folder.mkdir(parents=True)
    other.write_config(tiny_config("optim.lr=0.5"))
    with pytest.raises(ConfigError, match="another configuration"):
        train_all([task], 2, progress)
    train_all([task], 2, progress, fresh=True)
    assert crew.words() == ["start 0", "end 0"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_every_run_once(crew, progress, kind):
    def signals(run, log):
        """One that all processes of a group are sent, as Ctrl-C is: the parent's word is not a second one."""
        crew.until("training 0", "reading 1")
        with StopRequest() as asked:
            os.kill(os.getpid(), kind)
            time.sleep(0.1)
            assert asked.signal is None
            os.kill(os.getppid(), kind)
            while asked.signal is None:
                time.sleep(0.01)
            time.sleep(0.2)
            log("saved 2")
            asked.raise_interrupted(run, "epoch 1")

    tasks = crew(endless, unprepared, signals, moment)
    with pytest.raises(Interrupted) as stopped:
        train_all(tasks, 3, progress)
    assert stopped.value.status == 128 + kind
    assert str(stopped.value) == "saved 2 runs; the same command resumes the runs"
    assert {"saved 0", "gone 1", "saved 2"} <= {*crew.words()}
    assert "start 3" not in crew.words()
    assert sorted(lines_of(progress)) == [f"saved {tasks[i].run} at epoch 1" for i in (0, 2)]


def test_a_second_signal_waits_for_nobody(crew, progress, monkeypatch):
    def stubborn(run, log):
        log("process", os.getpid())
        with StopRequest() as asked:
            os.kill(os.getppid(), signal.SIGINT)
            while asked.signal is None:
                time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_all(crew(stubborn), 2, progress)
    finally:
        signal.signal(signal.SIGINT, before)
    pid = next(int(word.split()[1]) for word in crew.words() if word.startswith("process"))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_error_of_the_parent_itself_leaves_the_runs_saved(crew, progress):
    def tasks():
        yield from crew(endless)
        crew.until("training 0")
        raise OSError("surprise")

    with pytest.raises(OSError, match="surprise"):
        train_all(tasks(), 2, progress)
    assert "saved 0" in crew.words()


@pytest.mark.parametrize(
    ("words", "where", "at_once"),
    [
        (["train", "demo"], "training.several_runs", 2),
        (["compare", "demo", "resnet18_baseline"], "experiments.compare", 3),
        (["ladder", "ladder/1"], "experiments.compare", 3),
        (["reproduce", "--only", "resnet18_baseline"], reproduce, 3),
    ],
)
def test_commands_train_as_many_at_once_as_asked(cifarlab, tmp_path, monkeypatch, words, where, at_once):
    def told(tasks, at_once, *rest, **more):
        assert len(list(tasks)) >= 2
        raise Failure(f"{at_once} at once")

    place = where if where is reproduce else sys.modules[f"cifarlab.{where}"]
    monkeypatch.setattr(place, "train_all", told)
    status, _, err = cifarlab(*words, *TINY, "--runs", tmp_path, "--seeds", 2, "--at-once", 3)
    assert status == 1
    assert err == f"error: {at_once} at once\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "demo", "--at-once", "2"], "--at-once 2 needs a number of seeds, e.g. --seeds 2"),
        (["train", "demo", "--seeds", "2", "--at-once", "0"], "--at-once"),
        (["compare", "demo", "resnet18_baseline", "--at-once", "2"], "--at-once 2 needs a number of seeds"),
        (["ladder", "ladder/1", "--at-once", "2"], "--at-once 2 needs a number of seeds"),
        (["reproduce", "--at-once", "-1"], "--at-once"),
    ],
)
def test_a_number_that_makes_no_sense_is_one_line(cifarlab, tmp_path, words, message):
    status, _, err = cifarlab(*words, "--runs", tmp_path / "runs")
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_reproduce_at_once_trains_those_who_learn_after_those_who_may_teach(tmp_path, monkeypatch, progress):
    names = ("resnet18_pretrained_arcface_kd", "resnet50_pretrained_arcface_224x224")
    rows = [reproduce._row(experiments()[name], tmp_path, 2, "whole", (), None) for name in names]
    calls = []

    def trained(tasks, at_once, progress, left_out):
        calls.append([(task.run.name, task.config.train.seed) for task in tasks])

    def teachers(students, *rest):
        calls.extend("teacher" for config, _ in students if config.teacher_outputs)

    monkeypatch.setattr(reproduce, "train_all", trained)
    monkeypatch.setattr(reproduce, "train_teachers", teachers)
    reproduce._train(rows, tmp_path, progress, 4)
    kd, teacher = names
    as_run = Path("as_run")
    alone = [str(as_run / teacher), teacher]
    taught = [str(as_run / kd), kd]
    seeds = [[(name, seed) for seed in (0, 1) for name in group] for group in (alone, taught)]
    assert calls == [seeds[0], *["teacher"] * 4, seeds[1]]
