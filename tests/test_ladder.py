"""The ladder: each rung against the one below, and the top without each rung's change."""

import itertools
import json

import pytest

from cifarlab.ladder import undo
from cifarlab.merging import differences
from cifarlab.recipes import checked, names, read, resolve
from cifarlab.registry import ConfigError
from cifarlab.run import Run
from tests.tiny import TINY

LADDER = [name for name in names() if name.startswith("ladder/")]
DUMPS = {name: resolve(read(name)).dump() for name in LADDER}
PAIRS = list(itertools.pairwise(LADDER))


@pytest.mark.parametrize(("below", "rung"), PAIRS)
def test_a_rung_without_its_change_is_the_rung_below(below, rung):
    without = checked(undo(DUMPS[rung], DUMPS[below], DUMPS[rung])).dump()
    assert differences(without, DUMPS[below]) == {}


@pytest.mark.parametrize(("below", "rung"), PAIRS)
def test_the_top_without_a_change_differs_in_what_the_rung_changed(below, rung):
    top = DUMPS[LADDER[-1]]
    if rung == "ladder/06_cifar_stem":
        with pytest.raises(ConfigError, match=r"a later rung changes model\.backbone\.stem again"):
            undo(top, DUMPS[below], DUMPS[rung])
        return
    without = checked(undo(top, DUMPS[below], DUMPS[rung])).dump()
    assert differences(without, top) == differences(DUMPS[below], DUMPS[rung])


def test_a_rung_that_changes_nothing_cannot_be_left_out():
    with pytest.raises(ConfigError, match="changes nothing"):
        undo(DUMPS[LADDER[-1]], DUMPS[LADDER[2]], DUMPS[LADDER[2]])


def test_the_ladder_is_trained_and_each_rung_compared_with_the_one_below(tmp_path, cifarlab):
    runs = tmp_path / "runs"
    tiny = [*TINY, "train.epochs=1"]
    words = ("ladder", "ladder/1", *tiny, "--runs", runs, "--seeds", 2)
    status, out, err = cifarlab(*words, "--drop-one", "--json")
    assert status == 0, err
    found = json.loads(out)
    rungs = ["ladder/10_trivial_augment", "ladder/11_sam", "ladder/12_wide"]
    assert [arm["name"] for arm in found["arms"]] == rungs
    assert [arm["difference"] and arm["difference"]["from"] for arm in found["arms"]] == [None, *rungs[:2]]
    assert [row["left_out"] for row in found["drop_one"]] == rungs[1:]
    # The tiny backbone stands in for both: without its own change the top is the rung below it.
    sam, wide = found["drop_one"]
    assert wide["name"] == rungs[1] and wide["difference"]["mean"] == 0
    without = Run(runs / "ladder/12_wide_without_11_sam" / "0")
    assert without.plain_config()["optim"]["sharpness"] is None
    top = found["arms"][-1]
    assert sam["difference"]["mean"] == pytest.approx(top["mean"] - sam["mean"])
    status, out, _ = cifarlab("ladder", "ladder/1", "--drop-one", "--runs", runs)
    assert status == 0
    assert f"with {rungs[1]}: no difference shown" in out
    assert "opened 0 x" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leiter/"], "needs two recipes"),
        (["ladder/12"], "needs two recipes"),
        (["ladder/1"], "say --seeds 3"),
        (["ladder/1", "optim.lr=1"], "say how many seeds"),
    ],
)
def test_a_mistake_is_one_line(cifarlab, tmp_path, arguments, message):
    status, _, err = cifarlab("ladder", *arguments, "--runs", tmp_path / "runs")
    assert status == 2 and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
