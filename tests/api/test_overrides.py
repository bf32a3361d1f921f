"""Overrides from Python as the command line writes them."""

from pathlib import Path

import numpy as np
import pytest

from cifarlab.api.overrides import override_texts
from cifarlab.core.errors import ConfigError

pytestmark = pytest.mark.quick


def test_plain_data_and_paths_are_written_as_json():
    overrides = {"data": {"root": Path("pictures"), "val": 0.1}, "imports": (Path("a.py"),), "teacher": None}
    assert override_texts(overrides) == [
        'data={"root": "pictures", "val": 0.1}', 'imports=["a.py"]', "teacher=null"]  # fmt: skip
    assert override_texts({"data.augment": {"crop": {"p": np.float64(0.5)}}}) == [
        'data.augment={"crop": {"p": 0.5}}']  # fmt: skip
    assert override_texts(None) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"data.augment": {"crop": {"padding": np.int64(4)}}},
            "data.augment.crop.padding: expected plain data, got numpy.int64",
        ),
        (
            {"data.multi_scale": {"sizes": [32, {48}]}},
            "data.multi_scale.sizes.1: expected plain data, got set",
        ),
        ({"optim.lr": object()}, "optim.lr: expected plain data, got object"),
        ({"data.augment": {("crop",): {}}}, "data.augment: expected a name as key, got tuple"),
    ],
)
def test_what_is_no_plain_data_is_named_with_its_place(overrides, message):
    with pytest.raises(ConfigError) as caught:
        override_texts(overrides)
    assert str(caught.value) == message
