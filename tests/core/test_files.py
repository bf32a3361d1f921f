import json
import subprocess
import sys
import time

import pytest

from cifarlab.core import checkpoints, files
from cifarlab.core.errors import Failure

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("write", [b"half", None])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, write):
    path = tmp_path / "a.pt"
    checkpoints.save_checkpoint(path, {"x": 1})

    def fails(file):
        file.write(write or b"")
        raise OSError("disk full")

    with pytest.raises(Failure, match="disk full"):
        files.write_atomically(path, fails)
    assert checkpoints.load_checkpoint(path, ("x",))["x"] == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parent", ["gone", "file"])
def test_a_folder_that_is_gone_is_a_failure_in_one_line(tmp_path, parent):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=rf"{parent}/a\.pt: cannot be written \(") as error:
        checkpoints.save_checkpoint(tmp_path / parent / "a.pt", {"x": 1})
    assert "\n" not in str(error.value)


def test_a_process_killed_while_it_writes_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    checkpoints.save_checkpoint(path, {"x": 1})
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cifarlab.core.files import write_atomically\n"
        "def slow(file):\n    file.write(b'half')\n    file.flush()\n"
        "    print('writing', flush=True)\n    time.sleep(60)\n"
        "write_atomically(Path(sys.argv[1]), slow)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        time.sleep(0.05)
        process.kill()
    assert checkpoints.load_checkpoint(path, ("x",))["x"] == 1
    assert len(list(tmp_path.iterdir())) == 2
    files.clear_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_json_has_no_word_for_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": "é"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.5, None], "c": "é"}
