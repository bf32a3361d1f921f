"""YAML of a user's: a key given twice is refused wherever it stands, and everything else is as YAML says."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cifarlab.config.merge import refuse_twice
from cifarlab.config.recipes import read_recipe, recipe_names, resolve
from cifarlab.core.errors import ConfigError
from cifarlab.core.reading import parse_yaml
from cifarlab.core.registries import AUGMENTS
from cifarlab.evaluation.tta import parse
from cifarlab.runs.folder import Run

FOLDER = Path(__file__).parents[2] / "src" / "cifarlab" / "recipes"

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
plain_data = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4)
)


@given(plain_data, st.booleans())
def test_it_reads_what_yaml_reads(content, flow):
    text = yaml.safe_dump(content, default_flow_style=flow)
    assert parse_yaml(text, "x") == yaml.safe_load(text)


@given(st.dictionaries(st.text(), leaves, min_size=1, max_size=4), st.data())
def test_any_key_twice_is_refused_at_any_depth(content, data):
    again = data.draw(st.sampled_from(sorted(content)))
    lines = [yaml.safe_dump({key: value}, default_flow_style=True) for key, value in content.items()]
    place = data.draw(st.integers(0, len(lines)))
    lines.insert(place, yaml.safe_dump({again: 0}, default_flow_style=True))
    inner = ", ".join(line.strip()[1:-1] for line in lines)
    for depth in ("{%s}", "[{a: {%s}}]", "{? {%s} : 1}"):
        with pytest.raises(ConfigError, match="given twice"):
            parse_yaml(depth.replace("%s", inner), "x")


@pytest.mark.parametrize("text", [*[(FOLDER / f"{name}.yaml").read_text() for name in recipe_names()],
    "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, {z: 4}], x: 5}",
    "d: {e: {f: &a {<<: {k: 0, l: 0}, k: 1}}}\nc: {<<: *a, k: 2}",
    "a: {x: 1}\nb: {x: 1}", "[{a: 1}, {a: 1}]", "[0, 0.5, 0x1f, 0b11, 1_000, 07.5, 09, '010', '1:30', 1:90]",
    ""])  # fmt: skip
def test_keys_of_other_mappings_are_no_repetition(text):
    assert parse_yaml(text, "x") == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  lr: 1\n\n  lr: 2", "x line 4: lr is given twice, first on line 2"),
        ("{lr: 1, lr: 1}", "x line 1: lr is given twice"),
        ("1: a\n'1': b", "x line 2: 1 is given twice, first on line 1"),
        ("1: a\n1.0: b", "x line 2: 1.0 is given twice, first on line 1"),
        ("yes: a\ntrue: b", "x line 2: True is given twice, first on line 1"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", "x line 4: << is given twice, first on line 3"),
        ('{"a": 1,\n "a": 2}', "x line 2: a is given twice, first on line 1"),
        ("a: {", "x line 1: not YAML: "),
        ("a: 2024-13-01", "x: not YAML: month must be in 1..12"),
        ("[" * 1500, "x: not YAML: "),
        ("a: \0", "x: not YAML: "),
        ("{[1]: 2}", "x line 1: not YAML: found unhashable key"),
        ("train:\n  seed: 010", "x line 2: 010 is 8 in YAML, which reads it in base 8; write 8 or 10"),
        ("a: [-0_17]", "x line 1: -0_17 is -15 in YAML"),
        ("a:\n- b: 1:30", "x line 2: 1:30 is 90 in YAML, which counts in sixties; write 90, or '1:30'"),
        ("{a: 1:30:00.5}", "x line 1: 1:30:00.5 is 5400.5 in YAML"),
        ("1:30: a", "x line 1: 1:30 is 90 in YAML"),
        ("&a {*a : 1}", "x line 1: not YAML: found unhashable key"),
    ],
)
def test_what_is_wrong_is_one_line(text, message):
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "x")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_every_reader_of_a_users_yaml_refuses_it(tmp_path):
    twice = "base: demo\noptim:\n  lr: 1\n  lr: 2\n"
    (tmp_path / "mine.yaml").write_text(twice)
    (tmp_path / "upper.yaml").write_text("base: mine.yaml\n")
    for name in ("mine", "upper"):
        with pytest.raises(ConfigError, match=r"mine\.yaml line 4: lr is given twice, first on line 3"):
            read_recipe(str(tmp_path / f"{name}.yaml"))
    with pytest.raises(ConfigError, match=r"optim: '\{lr: 1, lr: 2\}': lr is given twice"):
        resolve(read_recipe("demo"), ["optim={lr: 1, lr: 2}"])
    with pytest.raises(ConfigError, match=r"tta: .*pixels is given twice"):
        parse("{name: multi_crop, pixels: 1, pixels: 2}")
    (tmp_path / "pipeline.json").write_text('[{"HorizontalFlip":\n {"p": 0.5,\n "p": 1}}]')
    with pytest.raises(ConfigError, match=r"pipeline\.json line 3: p is given twice, first on line 2"):
        AUGMENTS.spec({"name": "albumentations", "transforms": str(tmp_path / "pipeline.json")})
    (tmp_path / "config.yaml").write_text(twice)
    with pytest.raises(ConfigError, match=r"config\.yaml line 4: lr is given twice"):
        Run(tmp_path).plain_config()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("optim.lr=1", "train.epochs=2", "optim.lr=2"), "optim.lr"),
        (("optim={name: sgd, lr: 1}", "optim.lr=2"), "optim.lr"),
        (("optim.name=sgd", "optim=adamw"), "optim"),
        (("optim.schedule=step", "optim.schedule={name: cosine}"), "optim.schedule"),
        (("data.augment.flip.p=1", "data.augment={flip: {p: 0.5}}"), "data.augment.flip.p"),
        (("model.freeze=[head]", "model.freeze=[head]"), "model.freeze"),
        (("teacher.run=a", "teacher.run=b"), "teacher.run"),
    ],
)
def test_a_command_line_sets_a_key_once(overrides, key, cifarlab):
    for command in (("show", "demo"), ("compare", "demo", "resnet18_baseline", "--seeds", "1")):
        status, out, err = cifarlab(*command, *overrides)
        assert (status, out) == (2, ""), err
        assert err.startswith(f"error: {key}: given twice, by '"), err


@pytest.mark.parametrize(
    "overrides",
    [
        ("objective=supcon", "objective=triplet"),
        ("data.augment=null", "data.augment={crop: {}}", "data.augment=flip"),
        ("data.augment.crop=null", "data.augment.crop={}"),
        ("imports=[a.py]", "imports=b.py"),
        ("optim=sgd", "optim.lr=1", "optim={momentum: 0.5}"),
        ("optim.lr=1", "train.seed=1"),
    ],
)
def test_what_adds_to_another_is_no_repetition(overrides):
    refuse_twice(overrides)
