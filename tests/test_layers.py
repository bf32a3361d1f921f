"""Imports run downward only: every module stands on a floor and imports from floors below its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "cifarlab"

FLOORS = {
    "strict": -1,
    "registry": 0, "draws": 0, "records": 0, "statistics": 0, "steps": 0,
    "config": 1, "device": 1, "compiling": 1, "graphs": 1, "listing": 1, "calibration": 1, "verdicts": 1,
    "reading": 1,
    "merging": 2,
    "data": 2,
    "augment": 3, "models": 3, "optim": 3, "metrics": 3, "progress": 3,
    "objectives": 4, "checkpoint": 4, "evaluate": 4, "views": 4, "tta": 4,
    "engine": 5, "frozen": 5, "recipes": 5, "run": 5, "saving": 5,
    "experiments": 6, "trained": 6, "ledger": 6, "summary": 6,
    "audit": 7, "teachers": 7, "anchors": 7, "resuming": 7,
    "prepare": 8, "train": 9,
    "profile": 10, "runs": 10, "teaching": 10, "together": 10, "doctor": 10,
    "compare": 11, "inference": 11, "analysis": 11, "refit": 11,
    "report": 12, "ladder": 12, "reproduce": 12, "commands": 13, "cli": 14, "__main__": 15,
}  # fmt: skip
# Nothing in the package imports these from it; they may name any floor.
FACES = {"__init__"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    """The module or sub-package, directly below the package, that a file belongs to."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "cifarlab":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("cifarlab."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cifarlab.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_only_from_floors_below(path):
    own = room(path)
    if own in FACES:
        return
    for other in imported_rooms(path):
        assert other in FLOORS, f"{other} stands on no floor: add it to FLOORS"
        if other != own:
            assert FLOORS[other] < FLOORS[own], (
                f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"
            )


def test_every_module_has_a_floor_and_a_docstring():
    for path in modules():
        assert room(path) in FLOORS.keys() | FACES, path
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path}: says in one sentence what it holds"


COMMANDS = sorted((PACKAGE / "commands").glob("*.py"))


@pytest.mark.parametrize("path", [PACKAGE / "cli.py", *COMMANDS], ids=lambda path: path.name)
def test_the_command_line_imports_torch_in_commands_only(path):
    top = {
        name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
    }
    known = {
        "__future__",
        "cifarlab.commands",
        "cifarlab.commands.shared",
        "typer",
        "io",
        "json",
        "pathlib",
        "sys",
    }
    assert top <= known | {"traceback", "typing"}
