"""What only the report needs is an extra: its absence is said by the report, and felt nowhere else."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cifarlab
from tests.tiny import TINY, once

# Runs each of some commands, and prints their exit statuses and which of the modules were imported.
SCRIPT = """
import json, sys
absent, watched, commands = map(json.loads, sys.argv[1:])
sys.modules.update(dict.fromkeys(absent))
from cifarlab import cli
statuses = []
for words in commands:
    sys.argv = ["cifarlab", *words]
    try:
        cli.main()
        statuses.append(0)
    except SystemExit as stop:
        statuses.append(stop.code or 0)
print(json.dumps([statuses, [name for name in watched if sys.modules.get(name)]]))
"""
EXTRA = ["altair", "vl_convert"]
SOURCE = Path(cifarlab.__file__).parent


def run(folder: Path, absent: list[str], *commands: list[str]) -> tuple[list[int], list[str], str]:
    """(exit statuses, modules of EXTRA that were imported, what stderr says) of commands in one process."""
    words = [sys.executable, "-c", SCRIPT, *map(json.dumps, (absent, EXTRA, commands))]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    statuses, imported = json.loads(done.stdout.splitlines()[-1])
    return statuses, imported, done.stderr


@pytest.mark.parametrize("absent", EXTRA)
def test_without_its_libraries_a_command_says_how_to_get_them(absent, one):
    statuses, _, said = run(one.parents[1], [absent], ["report", "."], ["analyze", str(one)])
    report, analyze = said.splitlines()
    assert statuses == [2, 2]
    for line in (report, analyze):
        assert line.startswith("error: ")
        assert absent in line
        assert line.endswith("; run: pip install 'cifarlab[report]'")
    assert not (one.parents[1] / "report").exists()
    assert not (one / "analysis.json").exists()


def test_the_demo_does_not_import_them(tmp_path):
    commands = [["train", "demo", *once(*TINY, "train.epochs=1")], ["plot", "runs/demo/0"]]
    statuses, imported, said = run(tmp_path, [], *commands)
    assert statuses == [0, 0], said
    assert not imported


def test_no_other_command_reaches_them():
    """Wherever imports stand, also in functions."""
    imports = {module_name(path): imported_names(path) for path in SOURCE.rglob("*.py")}
    reaching, before = set(EXTRA), set()
    while reaching != before:
        before = set(reaching)
        reaching |= {name for name, imported in imports.items() if imported & reaching}
    commands = {name for name in reaching if name.startswith("cifarlab.commands.")}
    assert commands == {"cifarlab.commands.report", "cifarlab.commands.analyze"}
    assert not reaching & {"cifarlab", "cifarlab.training.loop", "cifarlab.report.plot"}


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imported_names(path: Path) -> set[str]:
    """Modules that a file imports, and what it takes from them, for that may be modules too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
