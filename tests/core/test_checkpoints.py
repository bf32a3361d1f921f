import os

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError

pytestmark = pytest.mark.quick


def test_a_checkpoint_comes_back(tmp_path):
    checkpoints.save_checkpoint(tmp_path / "a.pt", {"x": torch.arange(3), "n": [1, {"y": 2.5}], "none": None})
    state = checkpoints.load_checkpoint(tmp_path / "a.pt", ("x",))
    assert torch.equal(state["x"], torch.arange(3))
    assert state["n"] == [1, {"y": 2.5}]


@given(cut=st.floats(0, 0.999), flip=st.booleans(), value=st.integers(0, 255))
@example(cut=0.994140625, flip=True, value=1)  # A zip archive of several volumes.
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_a_config_error_or_still_a_checkpoint(tmp_path_factory, cut, flip, value):
    path = tmp_path_factory.mktemp("damaged") / "a.pt"
    checkpoints.save_checkpoint(path, {"x": torch.arange(300)})
    content = bytearray(path.read_bytes())
    at = int(cut * len(content))
    content = content[:at] + bytes([value]) + content[at + 1 :] if flip else content[:at]
    path.write_bytes(content)
    try:
        checkpoints.load_checkpoint(path, ("x",))
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert str(path) in message
    assert "\n" not in message


def test_nothing_in_a_checkpoint_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"format": 1, "x": Evil()}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="not a readable checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "a.pt", ("x",))
    assert not (tmp_path / "ran").exists()


def test_what_is_not_ours_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="not a checkpoint of cifarlab"):
        checkpoints.load_checkpoint(tmp_path / "a.pt", ("x",))
    with pytest.raises(ConfigError, match="no such checkpoint"):
        checkpoints.load_checkpoint(tmp_path / "b.pt", ("x",))


def test_a_format_of_a_later_version_is_refused_by_its_number(tmp_path):
    torch.save({"format": 2, "x": 1}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"a checkpoint of format 2; this version of cifarlab reads 1$"):
        checkpoints.load_checkpoint(tmp_path / "a.pt", ("x",))
