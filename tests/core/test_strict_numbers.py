"""Whatever takes a number takes no boolean: every field of every section, every option of every part."""

import copy
import re
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from cifarlab.config import Config, build_config
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.config.sections.section import Section
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import REGISTRIES
from cifarlab.core.registry import Registry
from cifarlab.evaluation.tta import TTA
from tests.test_every_part import NEEDED

# Fields that are null or empty by default, with something in them.
FILLED = {
    "data": {
        "limit": 100, "split_seed": 1, "classes": 5, "views": 2, "store_size": 32,
        "multi_scale": {"sizes": [16, 24], "per": "stage", "shares": [0.5, 0.5]},
    },
    "teacher": {"run": "a", "image_size": 32},
    "optim": {"lookahead": {}, "sharpness": {"name": "sam"}},
    "train": {"stop": 1, "patience": 1, "grad_clip": 1.0, "average": {"name": "ema"}},
}  # fmt: skip
OPTIONS: dict[str, Any] = {"patch": 4}


def numbers(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all numbers in plain data."""
    if isinstance(plain, dict | list):
        inner = plain.items() if isinstance(plain, dict) else enumerate(plain)
        return [found for key, value in inner for found in numbers(value, (*path, key))]
    return [path] if isinstance(plain, int | float) and not isinstance(plain, bool) else []


def with_boolean(plain: Any, path: tuple[Any, ...], value: bool) -> Any:
    changed = copy.deepcopy(plain)
    *above, last = path
    place = changed
    for key in above:
        place = place[key]
    place[last] = value
    return changed


def refuses_booleans(check: Any, plain: Any) -> int:
    """How many numbers there are; each was replaced by true and by false, and refused by its name."""
    check(plain)
    for path in numbers(plain):
        for value in (True, False):
            with pytest.raises(ConfigError) as error:
                check(with_boolean(plain, path, value))
            assert error.value.path == tuple(map(str, path)), error.value
            assert re.fullmatch(rf"expected a number(, got {value}| \(got {value}\))", error.value.message)
    return len(numbers(plain))


def hides_a_number(plain: Any, fields: dict[str, Any]) -> list[str]:
    """Fields of numbers of which plain data show none."""
    kinds = {key: str(field.annotation) for key, field in fields.items()}
    of_numbers = [key for key, kind in kinds.items() if re.search(r"\b(int|float)\b", kind)]
    return [key for key in of_numbers if not numbers(plain.get(key))]


def test_every_number_of_every_section():
    overrides = [f"{section}.{key}={value!r}".replace("'", "") for section, fields in FILLED.items()
                 for key, value in fields.items()]  # fmt: skip
    plain = resolve(read_recipe("demo"), overrides).dump()
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    for name in ("data", "model", "optim", "train"):
        assert issubclass(sections[name], Section)
        assert hides_a_number(plain[name], sections[name].model_fields) == []
    assert refuses_booleans(build_config, plain) > 40


def every_part() -> list[tuple[Registry, str, dict[str, Any]]]:
    registries = {**REGISTRIES, "tta": TTA}
    names = {key: [*registry] for key, registry in registries.items()}
    names["model.backbone"] += ["resnet18"]  # A name for which the open part answers.
    return [
        (registry, name, NEEDED.get(key, {}).get(name, {}))
        for key, registry in registries.items()
        for name in names[key]
    ]


def test_every_number_of_every_part():
    counts = 0
    for registry, name, options in every_part():
        fields = registry[name].schema.model_fields
        filled = {key: value for key, value in OPTIONS.items() if key in fields}
        plain = registry.spec({"name": name, **options, **filled}).dump()
        assert hides_a_number(plain, fields) == [], name
        plain = plain | ({"transforms": [{"HorizontalFlip": {}}]} if name == "albumentations" else {})
        counts += refuses_booleans(registry.spec, plain)
    assert counts > 150


class Inner(Section):
    ratio: float | str = 0.5


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        (int | None, True, ()),
        (Annotated[int | None, Field(ge=0)], False, ()),
        (float | str, True, ()),
        (Literal[1, 2], True, ()),
        (Literal["auto", 0], False, ()),
        (tuple[int, ...], [3, True], ("1",)),
        (list[tuple[str, float]], [["a", True]], ("0", "1")),
        (dict[str, list[float]], {"a": [1, False]}, ("a", "1")),
        (Inner, {"ratio": True}, ("ratio",)),
        (Inner | None, {"ratio": True}, ("ratio",)),
    ],
)
def test_a_number_at_any_depth_of_an_option(kind, value, path):
    registry = Registry("thing")
    scope = {"kind": kind}
    exec("def part(*, option: kind): ...", scope)
    registry.register(scope["part"])
    with pytest.raises(ConfigError, match="expected a number") as error:
        registry.spec({"name": "part", "option": value})
    assert error.value.path == ("option", *path)


@pytest.mark.parametrize(
    "kind",
    [bool, bool | int, Literal["auto"] | bool, bool | str, Literal[True, 3], Any, dict[str, Any] | bool],
)
def test_a_boolean_where_it_belongs(kind):
    registry = Registry("thing")
    scope = {"kind": kind}
    exec("def part(*, option: kind): ...", scope)
    registry.register(scope["part"])
    assert registry.spec({"name": "part", "option": True}).kwargs() == {"option": True}


@pytest.mark.parametrize(
    "word",
    ["data.val=true", "data.limit=yes", "train.seed=false", "optim.lr=true", "optim.schedule.warmup=true",
     "objective.cross_entropy.weight=true", "data.augment.flip.p=true"],
)  # fmt: skip
def test_the_command_line_says_it_in_one_line(word, cifarlab):
    key, _, _ = word.partition("=")
    status, out, err = cifarlab("show", "demo", word)
    assert (status, out) == (2, ""), err
    assert err.startswith(f"error: {key}: expected a number"), err
