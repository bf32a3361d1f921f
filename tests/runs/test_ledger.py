"""Who looks at the test pictures is written down; who trains or chooses does not look."""

import ast
import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from cifarlab.core.errors import Failure
from cifarlab.data import splits
from cifarlab.evaluation.score import evaluate
from cifarlab.runs.folder import Run, recorded_run
from cifarlab.runs.ledger import count_openings, openings, record_opening
from tests.tiny import tiny_config, train_tiny

PACKAGE = Path(splits.__file__).parents[1]


@pytest.fixture
def sealed(monkeypatch):
    """Reading the test part fails."""
    read = splits.read_data

    def guarded(data, part):
        if part == "test":
            raise AssertionError("the test part was read")
        return read(data, part)

    monkeypatch.setattr(splits, "read_data", guarded)


@pytest.mark.parametrize("select", ["val", "last"])
def test_training_and_choosing_never_read_the_test_part(sealed, tmp_path, select):
    run, summary = train_tiny(tmp_path / "runs" / "a" / "0", f"train.select={select}")
    assert summary.test_top1 is None
    assert evaluate(run.folder, split="val").top1 is not None
    assert openings(tmp_path / "runs") == []
    with pytest.raises(AssertionError, match="test part was read"):
        evaluate(run.folder, split="test")


def test_every_evaluation_of_a_run_that_chooses_on_test_is_an_opening(tmp_path):
    run, _ = train_tiny(tmp_path / "runs" / "a" / "0", "train.select=test", "data.val=0")
    entries = openings(tmp_path / "runs")
    assert [(entry["run"], entry["reader"], entry["epoch"]) for entry in entries] == [
        ("a/0", "train", 1),
        ("a/0", "train", 2),
    ]
    assert count_openings(run) == {"run": 2, "runs": 2}


def test_eval_on_test_is_an_opening_and_says_how_many(tmp_path, cifarlab):
    name = "as_run/small"
    run = Run(tmp_path / "runs" / name / "0", recipe="demo", name=name)
    from cifarlab.training.loop import train_run

    train_run(tiny_config(), run)
    other, _ = train_tiny(tmp_path / "runs" / "b" / "0")
    assert cifarlab("eval", run.folder)[0] == 0
    assert openings(tmp_path / "runs") == []
    evaluate(other.folder, split="test")
    status, out, _ = cifarlab("eval", run.folder, "--split", "test")
    assert status == 0
    assert "opened 1 x for this run, 2 x for all runs beside it" in out
    scores = json.loads(cifarlab("eval", run.folder, "--split", "test", "--json")[1])
    assert scores["test_opened"] == {"run": 2, "runs": 3}
    last = openings(tmp_path / "runs")[-1]
    assert (last["run"], last["reader"]) == (f"{name}/0", "eval")
    # The same pictures, whoever reads them; a checkpoint of each run.
    entries = openings(tmp_path / "runs")
    assert len({entry["fingerprint"] for entry in entries}) == 1
    assert len({entry["weights_sha256"] for entry in entries}) == 2


def test_a_runs_name_may_have_several_parts(tmp_path):
    folder = tmp_path / "runs" / "ladder" / "a" / "0"
    folder.mkdir(parents=True)
    assert recorded_run(folder).runs == tmp_path / "runs" / "ladder"
    (folder / "env.json").write_text('{"name": "ladder/a"}')
    assert recorded_run(folder).runs == tmp_path / "runs"
    (folder / "env.json").write_text('{"name": "moved/from/elsewhere"}')
    assert recorded_run(folder).runs == tmp_path / "runs" / "ladder"
    (folder / "env.json").write_text('{"name": "ladder/')
    assert recorded_run(folder).name == "a"


def test_a_checkpoint_that_stands_alone_has_its_ledger_beside_it(tmp_path, cifarlab):
    """Two folders up may be the unwritable root of the file system, or another user's folder."""
    run, _ = train_tiny(tmp_path / "runs" / "a" / "0", "train.epochs=1")
    home = tmp_path / "above" / "home" / "me"
    home.mkdir(parents=True)
    alone = Path(shutil.copy(run.best_path, home / "best.pt"))
    (tmp_path / "above" / "ledger.jsonl").mkdir()  # It cannot be written.
    status, out, _ = cifarlab("eval", alone, "--split", "test")
    assert status == 0
    assert "opened 1 x for this run, 1 x for all" in out
    assert [entry["run"] for entry in openings(home)] == ["home/me"]
    # A run's own checkpoint is the run's.
    evaluate(run.best_path, split="test", device="cpu")
    assert [entry["run"] for entry in openings(tmp_path / "runs")] == ["a/0"]


def started(folder):
    """A run's folder, as far as the ledger can tell."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    return Run(folder)


def _record_many(folder):
    for epoch in range(20):
        record_opening(Run(folder), "test", "f" * 32, epoch)


def test_processes_share_a_ledger(tmp_path):
    folders = [started(tmp_path / "runs" / "a" / str(seed)).folder for seed in range(3)]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        pool.map(_record_many, folders)
    assert count_openings(Run(folders[0])) == {"run": 20, "runs": 60}


def test_a_torn_line_is_an_opening_and_spoils_no_other(tmp_path):
    run = started(tmp_path / "a" / "0")
    record_opening(run, "eval", "f", 1)
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(path.read_bytes() + b'{"time": "2026')
    record_opening(run, "eval", "f", 1)
    assert count_openings(run) == {"run": 2, "runs": 3}


def test_what_cannot_be_written_down_is_not_read(tmp_path):
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(Failure, match="so the test set is not read"):
        record_opening(started(tmp_path / "a" / "0"), "eval", "f", 1)


# Each of them writes its openings down, or reads no more than a run that chooses on test asks for; an audit
# reads all parts, and writes down whatever shows them to a model.
READERS = {"evaluation/sealed.py", "training/setup.py", "data/splits.py", "evaluation/audit/audit.py"}
# What reads parts, by the position of the argument that says which; None: test, without being told so.
DOORS = {"load_test": None, "read_data": 1, "load_splits": 2}
SPLITS = "cifarlab.data.splits"


def may_read_test(source: str, module: str = "") -> bool:
    """Whether a module calls a door for the test part, or for parts that its text does not name."""
    tree = ast.parse(source)
    doors = {name: name for name in DOORS} if module == SPLITS else {}
    whole = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if node.module == SPLITS and alias.name in DOORS:
                    doors[alias.asname or alias.name] = alias.name
                elif f"{node.module}.{alias.name}" == SPLITS:
                    whole.add(alias.asname or alias.name)
        elif isinstance(node, ast.Import):
            whole |= {alias.asname or alias.name for alias in node.names if alias.name == SPLITS}

    def door(node: ast.AST) -> str | None:
        if isinstance(node, ast.Attribute):
            if ast.unparse(node) == "data.dataset.build" and module != SPLITS:
                return "load_test"  # Whichever part it is: all reading goes through these functions.
            return node.attr if node.attr in DOORS and ast.unparse(node.value) in whole else None
        return doors.get(node.id) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) else None

    harmless = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := door(node.func)) and (position := DOORS[name]):
            given = [
                *node.args[position : position + 1],
                *(k.value for k in node.keywords if k.arg != "seed"),
            ]
            starred = any(isinstance(each, ast.Starred) for each in node.args)
            if not starred and all(_names_no_test(each) for each in given):
                harmless.add(node.func)
    return any(door(node) and node not in harmless for node in ast.walk(tree))


def _names_no_test(node: ast.expr) -> bool:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return False
    return value is False or (isinstance(value, str) and "test" not in value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from cifarlab.data.splits import read_data\nread_data(data, 'train')", False),
        ("from cifarlab.data.splits import read_data\nread_data(data, 'test')", True),
        ("from cifarlab.data.splits import read_data\nread_data(data, part='test')", True),
        ("from cifarlab.data.splits import read_data\n{part: read_data(data, part) for part in PARTS}", True),
        ("from cifarlab.data.splits import read_data as look\nlook(*given)", True),
        ("from cifarlab.data.splits import read_data\nmap(partial(read_data, data), PARTS)", True),
        ("from cifarlab.data.splits import load_splits\nload_splits(data, seed)", False),
        ("from cifarlab.data.splits import load_splits\nload_splits(data, seed, with_test=False)", False),
        ("from cifarlab.data.splits import load_splits\nload_splits(data, seed, with_test=asked)", True),
        ("from cifarlab.data import splits\nsplits.load_splits(data, seed, with_test=True)", True),
        ("import cifarlab.data.splits\ncifarlab.data.splits.load_test(data)", True),
        ("from cifarlab.data import splits\nsplits.load_splits(data, seed)", False),
        ("data.dataset.build(data, part)", True),
        ("from cifarlab.config.recipes import read_recipe\nread_recipe(name, beside)", False),
        ("import os\nos.read(file, count)", False),
    ],
)
def test_who_may_read_the_test_part_is_told_by_the_text(source, expected):
    assert may_read_test(source) == expected


def test_nothing_else_in_the_package_asks_for_the_test_part():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        module = f"cifarlab.{name.removesuffix('.py').replace('/', '.')}"
        if may_read_test(path.read_text(), module):
            found.add(name)
    assert found == READERS
