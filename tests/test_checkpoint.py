import json
import os
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cifarlab import checkpoint
from cifarlab.registry import ConfigError, Failure

pytestmark = pytest.mark.quick


def test_a_checkpoint_comes_back(tmp_path):
    checkpoint.save(tmp_path / "a.pt", {"x": torch.arange(3), "n": [1, {"y": 2.5}], "none": None})
    state = checkpoint.load(tmp_path / "a.pt", ("x",))
    assert torch.equal(state["x"], torch.arange(3)) and state["n"] == [1, {"y": 2.5}]


@pytest.mark.parametrize("write", [b"half", None])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, write):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"x": 1})

    def fails(file):
        file.write(write or b"")
        raise OSError("disk full")

    with pytest.raises(Failure, match="disk full"):
        checkpoint.write_atomically(path, fails)
    assert checkpoint.load(path, ("x",))["x"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parent", ["gone", "file"])
def test_a_folder_that_is_gone_is_a_failure_in_one_line(tmp_path, parent):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=rf"{parent}/a\.pt: cannot be written \(") as error:
        checkpoint.save(tmp_path / parent / "a.pt", {"x": 1})
    assert "\n" not in str(error.value)


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    checkpoint.save(path, {"x": 1})
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cifarlab.checkpoint import write_atomically\n"
        "def slow(file):\n    file.write(b'half')\n    file.flush()\n"
        "    print('writing', flush=True)\n    time.sleep(60)\n"
        "write_atomically(Path(sys.argv[1]), slow)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        time.sleep(0.05)
        process.kill()
    assert checkpoint.load(path, ("x",))["x"] == 1
    assert len(list(tmp_path.iterdir())) == 2
    checkpoint.clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@given(cut=st.floats(0, 0.999), flip=st.booleans(), value=st.integers(0, 255))
@example(cut=0.994140625, flip=True, value=1)  # A zip archive of several volumes.
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_a_config_error_or_still_a_checkpoint(tmp_path_factory, cut, flip, value):
    path = tmp_path_factory.mktemp("damaged") / "a.pt"
    checkpoint.save(path, {"x": torch.arange(300)})
    content = bytearray(path.read_bytes())
    at = int(cut * len(content))
    content = content[:at] + bytes([value]) + content[at + 1 :] if flip else content[:at]
    path.write_bytes(content)
    try:
        checkpoint.load(path, ("x",))
    except ConfigError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_nothing_in_a_checkpoint_runs(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"format": 1, "x": Evil()}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="not a checkpoint that can be read"):
        checkpoint.load(tmp_path / "a.pt", ("x",))
    assert not (tmp_path / "ran").exists()


def test_what_is_not_ours_is_refused(tmp_path):
    torch.save({"model": {}}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="not a checkpoint of this version"):
        checkpoint.load(tmp_path / "a.pt", ("x",))
    with pytest.raises(ConfigError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "b.pt", ("x",))


def test_json_has_no_word_for_nan(tmp_path):
    checkpoint.write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": "é"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.5, None], "c": "é"}
