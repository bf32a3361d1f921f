from dataclasses import dataclass

import pytest
from pydantic import BaseModel

from cifarlab.core.errors import ConfigError
from cifarlab.core.registry import Registry, Spec

pytestmark = pytest.mark.quick


@dataclass(frozen=True)
class Traits:
    is_big: bool = False


@pytest.fixture
def registry():
    things = Registry("thing", beside=("weight",), traits=Traits)

    @things.register
    def first(given, *, size: int = 3, ratio: float = 0.5, names: tuple[str, ...] = ()):
        """Does the first thing.

        More of it.
        """
        return given, size, ratio, names

    @things.register
    def needy(*, size: int):
        """Cannot do without a size."""
        return size

    return things


def test_a_signature_is_the_schema(registry):
    spec = registry.spec({"name": "first", "size": 4})
    assert spec.build("x") == ("x", 4, 0.5, ())
    assert spec.bind()("y") == ("y", 4, 0.5, ())
    assert spec.dump() == {"name": "first", "size": 4, "ratio": 0.5, "names": [], "weight": 1.0}
    assert registry["first"].doc == "Does the first thing."
    assert registry["first"].options == {"size": 3, "ratio": 0.5, "names": ()}


def test_numbers_written_as_yaml_strings_are_numbers(registry):
    assert registry.spec({"name": "first", "ratio": "1e-3"}).options.ratio == 1e-3


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ({"name": "frist"}, (), "unknown thing 'frist'; did you mean first?"),
        ({"name": "first", "sise": 4}, ("sise",), "unknown; did you mean size?"),
        ({"name": "first", "size": "big"}, ("size",), "(got 'big')"),
        ({"name": "first", "wieght": 2}, ("wieght",), "did you mean weight?"),
        ({"name": "first", "weight": "heavy"}, ("weight",), "expected a number"),
        ({"name": "needy"}, ("size",), "missing"),
        ({"size": 3}, ("name",), "expected the name of a thing"),
        (7, (), "expected a thing's name"),
    ],
)
def test_a_mistake_is_named_with_its_path(registry, value, path, message):
    with pytest.raises(ConfigError) as error:
        registry.spec(value)
    assert error.value.path == path
    assert message in str(error.value)


@pytest.mark.parametrize("option", ["name", "weight", "p", "before"])
def test_reserved_options_cannot_be_registered(registry, option):
    scope = {}
    exec(f"def part(*, {option}: float = 1.0): ...", scope)
    with pytest.raises(TypeError, match="belongs to the registry"):
        registry.register(scope["part"])


def test_fields_beside_a_part_keep_their_names(registry):
    def part(*, size: int = 1, rate: float = 1.0): ...

    registry.reserve(["rate"])
    with pytest.raises(TypeError, match=r"part: option 'rate' has the name of a field .*; rename it"):
        registry.register(part)
    with pytest.raises(TypeError, match="option 'rate'"):
        registry.register_open("any part", lambda name: True, list)(part)
    assert "part" not in registry
    assert registry["first"]
    # Whichever came first, the part or the section.
    with pytest.raises(TypeError, match="first: option 'ratio'"):
        registry.reserve(["ratio"])


def test_an_option_needs_an_annotation(registry):
    def bare(*, size=3): ...

    with pytest.raises(TypeError, match="annotation"):
        registry.register(bare)


def test_a_name_is_given_once(registry):
    def first(*, other: int = 1): ...

    first.__module__ = "elsewhere"
    with pytest.raises(ValueError, match="already registered"):
        registry.register(first)


def test_classes_and_traits(registry):
    @registry.register(name="klass", is_big=True)
    class Klass:
        """A class."""

        def __init__(self, given, *, size: int = 1):
            self.value = (given, size)

    assert registry.spec({"name": "klass", "size": 2}).build(1).value == (1, 2)
    assert registry["klass"].traits == Traits(is_big=True)


def test_a_trait_that_the_kind_does_not_have_is_refused(registry):
    with pytest.raises(TypeError, match=r"a thing has no trait 'is_bigg'.*did you mean is_big"):
        registry.register(lambda given: given, name="other", is_bigg=True)


def test_an_open_part_answers_for_names_nobody_registered(registry):
    @registry.register_open("any thing", lambda name: name.startswith("any_"), lambda: ["any_thing"])
    def anything(name, given, *, size: int = 1):
        """Any thing."""
        return name, given, size

    assert registry.spec({"name": "any_cat", "size": 5}).build("x") == ("any_cat", "x", 5)
    with pytest.raises(ConfigError, match="did you mean any_thing"):
        registry.spec("anything")


def test_mutable_defaults_are_not_shared(registry):
    @registry.register
    def listy(*, values: list[int] = [1]):  # noqa: B006  (what is tested)
        return values

    registry.spec("listy").build().append(2)
    assert registry.spec("listy").build() == [1]


def test_specs_are_frozen(registry):
    spec = registry.spec("first")
    assert isinstance(spec, Spec)
    assert isinstance(spec.options, BaseModel)
    with pytest.raises(ValueError, match="frozen"):
        spec.options.size = 9


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_a_trait_of_another_type_is_refused(registry, value):
    with pytest.raises(TypeError, match=r"other: trait 'is_big': input should be a valid boolean"):
        registry.register(lambda given: given, name="other", is_big=value)
    assert "other" not in registry


def test_a_part_may_be_registered_for_another_module(registry):
    registry.register(lambda given: given, name="other", module="elsewhere")
    assert registry["other"].module == "elsewhere"
    assert registry["first"].module == __name__
