"""The architecture: folders in layers, small modules, one public name for one thing."""

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import cifarlab

PACKAGE = Path(__file__).parents[1] / "src" / "cifarlab"

# The lowest first: a folder imports from itself and from those before it.
LAYERS = [
    "core", "config", "data", "augment", "models", "optim", "objectives", "engine", "runs", "teachers",
    "training", "evaluation", "experiments", "doctor", "report", "api", "commands", "cli", "__main__",
]  # fmt: skip
# Modules beside the folders. `__init__` may name any layer: nothing in the package imports from it.
BESIDE = {"__init__", "__main__", "cli"}
MOST_LINES = 300
# Public names that two modules define, each with its reason.
SHARED_NAMES: dict[str, str] = {}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer(path: Path) -> str:
    """Return the folder or module, directly below the package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
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


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_run_downward(path):
    own = layer(path)
    if own == "__init__":
        return
    for other in imported_layers(path):
        assert other in LAYERS, f"{other} is in no layer: add it to LAYERS"
        assert LAYERS.index(other) <= LAYERS.index(own), f"{own} imports {other}, which lies above it"


def test_the_architecture_page_names_these_imports():
    found: dict[str, set[str]] = {name: set() for name in LAYERS[:-1]}
    for path in MODULES:
        if (own := layer(path)) in found:
            found[own] |= imported_layers(path) - {own}
    page = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("<!-- imports -->")[2], re.MULTILINE)
    named = {folder: set(re.findall(r"`(\w+)`", text)) for folder, text in rows if folder in found}
    changed = {folder: sorted(found[folder], key=LAYERS.index) for folder in LAYERS[:-1]
               if named.get(folder) != found[folder]}  # fmt: skip
    assert not changed, f"docs/architecture.md should say of its imports: {changed}"


def test_the_package_is_made_of_these_folders():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and [*path.glob("*.py")]}
    assert folders == set(LAYERS) - BESIDE
    assert {path.stem for path in PACKAGE.glob("*.py")} == BESIDE
    assert not [path for path in PACKAGE.rglob("*/") if path.is_dir() and len([*path.glob("*.py")]) == 1]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_module_is_small_and_says_what_it_holds(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), "say in one sentence what it holds"
    assert text.count("\n") <= MOST_LINES, f"split {path.name}: a module has at most {MOST_LINES} lines"


def public_names(path: Path) -> set[str]:
    """Return what a module defines for others; parts and commands have names of their own registries."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            registered = any(
                word in ast.unparse(decorator)
                for decorator in node.decorator_list
                for word in (".register", "app.command")
            )
            found |= set() if registered else {node.name}
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {name for name in found if not name.startswith("_")}


def test_a_public_name_has_one_meaning():
    homes = defaultdict(list)
    for path in MODULES:
        for public in public_names(path):
            homes[public].append(name(path))
    shared = {public: places for public, places in homes.items() if len(places) > 1}
    assert len(SHARED_NAMES) <= 10
    assert shared.keys() == SHARED_NAMES.keys(), shared


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
    known = {"__future__", "cifarlab.commands", "cifarlab.commands.shared", "typer", "io", "json", "pathlib"}
    assert top <= known | {"sys", "traceback", "typing"}


# Public functions whose options may be given by position, each with its reason.
BY_POSITION = {
    "ConfigError": "an exception: the message, and the key that it is about",
    "resolve": "a recipe and its overrides are a pair",
    "train": "a recipe and its overrides are a pair",
    "find_recipe": "the name and the folder of the recipe that names it are a pair",
    "parse_yaml": "the third is the key at which ConfigError is raised, as of ConfigError",
    "power": "vectorised by scipy's root finding, which calls it by position",
}


def options_by_position(tree: ast.Module) -> Iterator[str]:
    """Yield public functions and classes that take an argument with a default by position."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            (init, *_) = [*(m for m in node.body if getattr(m, "name", "") == "__init__"), None]
            arguments, first = getattr(init, "args", None), 2
        elif isinstance(node, ast.FunctionDef):
            arguments, first = node.args, 1
        else:
            continue
        is_command = any("command" in ast.unparse(each) for each in node.decorator_list)
        if arguments is None or node.name.startswith("_") or is_command:
            continue
        positional = [*arguments.posonlyargs, *arguments.args]
        if len(positional) > max(first, len(positional) - len(arguments.defaults)):
            yield node.name


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_options_are_given_by_keyword(path):
    assert set(options_by_position(ast.parse(path.read_text()))) <= BY_POSITION.keys()


def test_the_public_api_takes_all_but_the_first_argument_by_keyword():
    functions = [
        each for each in map(vars(cifarlab)["__getattr__"], cifarlab.__all__) if inspect.isfunction(each)
    ]
    assert {each.__name__ for each in functions} == {"compare", "evaluate", "load", "predict", "train"}
    for function in functions:
        _, *others = inspect.signature(function).parameters.values()
        by_position = {each.name for each in others if each.kind is not inspect.Parameter.KEYWORD_ONLY}
        assert by_position <= {"train": {"overrides"}, "predict": {"pictures"}}.get(function.__name__, set())


# Such types do not say what a mapping holds. What remains: torch's state dicts and parameter groups,
# timm's keyword arguments, and configurations while they are read and merged.
MOST_UNTYPED = 60
UNTYPED = re.compile(r"(?:[dD]ict|Mapping)\[str, (?:Any|object)\]")


def test_few_mappings_are_untyped():
    texts = [path.read_text() for path in MODULES]
    aliases = [
        match
        for text in texts
        for match in re.findall(rf"^(\w+)(?:: TypeAlias)? = .*{UNTYPED.pattern}", text, re.M)
    ]
    used = sum(len(re.findall(rf"(?<!^)\b{alias}\b", text)) for alias in aliases for text in texts)
    assert sum(len(UNTYPED.findall(text)) for text in texts) + used <= MOST_UNTYPED


def test_few_lines_of_the_lower_folders_are_hidden_from_the_type_checker():
    strict = ("core/", "config/", "runs/", "experiments/")
    lines = [
        line for path in MODULES if name(path).startswith(strict) for line in path.read_text().splitlines()
    ]
    assert sum("pyright: ignore" in line or "type: ignore" in line for line in lines) <= 20
