"""Messages of wrong values: the key that exists, and everything that it may be."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from cifarlab.core.errors import ConfigError, explain, reason_of
from cifarlab.core.strict_numbers import Strict

pytestmark = pytest.mark.quick


class Settings(Strict):
    keep: Literal["auto"] | bool = "auto"
    size: int | tuple[int, int] = 3
    rate: Annotated[float, Field(gt=0)] | Literal["own"] = 1.0
    labels: dict[str, int] = Field(default_factory=dict)
    seed: int | None = None


def mistake(model: type[BaseModel], values: dict) -> ConfigError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    return explain(caught.value, lambda path: model.model_fields if not path else ())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep": "maybe"}, "keep: input should be 'auto' or a valid boolean (got 'maybe')"),
        ({"rate": -1}, "rate: input should be greater than 0 or 'own' (got -1)"),
        ({"size": "big"}, "size: input should be a valid integer or a valid tuple (got 'big')"),
        # The choice that was meant is the one that fits best.
        ({"size": [1, "b"]}, "size.1: input should be a valid integer (got 'b')"),
        # Two keys are no choices of one.
        ({"labels": {"a": "x", "b": "x"}}, "labels.a: input should be a valid integer (got 'x')"),
        ({"keep": "maybe", "rate": "maybe"}, "keep: input should be 'auto' or a valid boolean (got 'maybe')"),
        ({"seed": "x"}, "seed: input should be a valid integer (got 'x')"),
    ],
)
def test_a_wrong_value_of_several_types(values, message):
    assert str(mistake(Settings, values)) == message


def test_a_long_value_is_shortened():
    text = str(mistake(Settings, {"seed": ["x" * 1000]}))
    assert len(text) < 200
    assert text.endswith("...)")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device", "a.pt"), "No space left on device"),
        (RuntimeError("\n  it  broke\nat line 3"), "it broke"),
        (
            RuntimeError("Errors while loading:\n\tno key a\n\tno key b"),
            "Errors while loading: no key a",
        ),
        (RuntimeError("ends so:"), "ends so:"),
        (ValueError(), "ValueError"),
        (RuntimeError("x" * 300), "x" * 157 + "..."),
        (RuntimeError("some words " * 30), "some words " * 13 + "some words..."),
        (RuntimeError("\x1b[1mbold\x1b[0m, and a bell\a"), "bold, and a bell"),
    ],
)
def test_the_reason_of_an_exception_is_a_short_line(error, reason):
    assert reason_of(error) == reason
