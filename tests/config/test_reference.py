"""Every option of every part and section is explained, and the pages say what the tool says."""

import json
import re
from pathlib import Path

import pytest

from cifarlab.config.describe import describe_part, describe_sections
from cifarlab.config.imports import import_builtin_parts
from cifarlab.config.reference import PAGES, reference_pages
from cifarlab.core.registries import REGISTRIES

pytestmark = pytest.mark.quick
import_builtin_parts()
PARTS = {(key, part.name): describe_part(part) for key, kind in REGISTRIES.items() for part in kind.parts()}
REPOSITORY = Path(__file__).parents[2]


def well_said(text: str) -> bool:
    return text[:1] == text[:1].upper() and text.endswith(".") and "\n" not in text


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_option_of_a_part_is_explained(kind, name):
    part = PARTS[kind, name]
    assert well_said(part.doc), part.doc
    unsaid = [key for key, option in part.options.items() if not well_said(option.doc)]
    assert not unsaid


def test_no_docstring_explains_an_option_that_a_part_does_not_have():
    for key, kind in REGISTRIES.items():
        for part in kind.parts():
            docstring = part.call.__doc__ or ""
            _, _, entries = docstring.partition("Args:\n")
            named = re.findall(r"^\s{8}(\w+)(?: \([^)]*\))?: ", entries.partition("\n\n")[0], re.MULTILINE)
            assert set(named) == set(part.options) or not named, (key, part.name)


@pytest.mark.parametrize("section", describe_sections())
def test_every_option_of_a_section_is_explained(section):
    found = describe_sections()[section]
    assert well_said(found.doc)
    assert not [key for key, option in found.options.items() if not well_said(option.doc)]


def test_the_pages_are_those_of_the_code():
    for name, text in reference_pages().items():
        path = REPOSITORY / PAGES / name
        assert path.read_text() == text, "run: python -m cifarlab.config.reference"


def test_the_tool_prints_type_default_range_and_meaning(cifarlab):
    status, out, _ = cifarlab("parts", "muon")
    assert status == 0
    assert "momentum: float in [0, 1), default 0.95" in out
    listed = json.loads(cifarlab("parts", "muon", "--json")[1])
    assert list(listed) == ["optim"]
    assert [part["name"] for part in listed["optim"]] == ["muon"]
    for option in listed["optim"][0]["options"].values():
        assert option["doc"] in out
    out = cifarlab("options", "optim")[1]
    assert "layer_decay: float in (0, 1], default 1.0" in out
    assert "cifarlab parts optim.schedule" in out
    for option in describe_sections()["optim"].options.values():
        assert option.doc in out


def test_a_model_of_timm_is_explained_by_its_name(cifarlab):
    status, out, _ = cifarlab("parts", "resnet18")
    assert status == 0
    assert out.startswith("resnet18, of model.backbone")
    assert "pretrained: " in out


def test_one_option_is_looked_up_by_its_path(cifarlab):
    out = cifarlab("options", "train.select")[1]
    assert "select: val | test | last" in out
    assert "patience" not in out
    assert "steps" in cifarlab("options", "optim.lookahead")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["parts", "muno"], "muno: unknown; did you mean muon?"),
        (["options", "trian"], "trian: unknown; did you mean train?"),
    ],
)
def test_a_name_that_nothing_has_is_a_mistake(cifarlab, words, message):
    status, _, err = cifarlab(*words)
    assert status == 2
    assert message in err
