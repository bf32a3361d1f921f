"""Records: copies with other values."""

import pytest
from pydantic import Field, ValidationError

from cifarlab.core.records import Record

pytestmark = pytest.mark.quick


class Inner(Record):
    source: str = Field(validation_alias="from", serialization_alias="from")


class Outer(Record):
    top1: float = 0.0
    inner: Inner | None = None
    other: str = Field("", validation_alias="to", serialization_alias="to")


def test_a_copy_keeps_what_another_name_stands_for():
    record = Outer.model_validate({"to": "a", "inner": {"from": "b"}, "of a later version": 1})
    copy = record.changed(top1=0.5)
    assert (copy.other, copy.inner) == ("a", Inner(source="b"))
    assert copy.to_json() == {**record.to_json(), "top1": 0.5}
    assert record.changed(other="c").to_json()["to"] == "c"


def test_a_misspelt_name_and_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match=r"Outer has no value 'tpo1'.*did you mean top1"):
        Outer().changed(tpo1=0.5)
    with pytest.raises(ValidationError):
        Outer().changed(top1="0.5")
