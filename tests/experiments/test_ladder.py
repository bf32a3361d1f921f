"""The ladder: each rung against the one below, and the top without each rung's change."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarlab.config.merge import differences
from cifarlab.config.recipes import import_and_validate, read_recipe, recipe_names, resolve
from cifarlab.core.errors import ConfigError
from cifarlab.experiments.ladder import undo
from cifarlab.runs.folder import Run
from tests.tiny import TINY, once, train_tiny

LADDER = [name for name in recipe_names() if name.startswith("ladder/")]
DUMPS = {name: resolve(read_recipe(name)).dump() for name in LADDER}
PAIRS = list(itertools.pairwise(LADDER))


@pytest.mark.parametrize(("below", "rung"), PAIRS)
def test_a_rung_without_its_change_is_the_rung_below(below, rung):
    without = import_and_validate(undo(DUMPS[rung], DUMPS[below], DUMPS[rung])).dump()
    assert differences(without, DUMPS[below]) == {}


@pytest.mark.parametrize(("below", "rung"), PAIRS)
def test_the_top_without_a_change_differs_in_what_the_rung_changed(below, rung):
    top = DUMPS[LADDER[-1]]
    if rung == "ladder/06_cifar_stem":
        with pytest.raises(ConfigError, match=r"a later rung changes model\.backbone\.stem again"):
            undo(top, DUMPS[below], DUMPS[rung])
        return
    without = import_and_validate(undo(top, DUMPS[below], DUMPS[rung])).dump()
    assert differences(without, top) == differences(DUMPS[below], DUMPS[rung])


def test_a_rung_that_changes_nothing_cannot_be_left_out():
    with pytest.raises(ConfigError, match="changes nothing"):
        undo(DUMPS[LADDER[-1]], DUMPS[LADDER[2]], DUMPS[LADDER[2]])


def labelled(order, **changes):
    """A configuration whose augmentations stand in `order`, e.g. "abc"."""
    return {"data": {"augment": {label: {"p": changes.get(label, 1.0)} for label in order}}}


def order_of(plain):
    return "".join(plain["data"]["augment"])


@pytest.mark.parametrize(
    ("below", "rung", "top", "without"),
    [
        ("abc", "cab", "cab", "abc"),
        ("abc", "cab", "cxab", "axbc"),  # x came later.
        ("abc", "ac", "ac", "abc"),
        ("abc", "ac", "axc", "abxc"),
        ("abc", "bc", "xbc", "xabc"),
        ("a", "b", "xb", "xa"),
        ("ab", "abc", "bac", "ba"),  # A later rung swapped a and b, and c goes.
    ],
)
def test_undo_restores_positions(below, rung, top, without):
    assert order_of(undo(labelled(top), labelled(below), labelled(rung))) == without


@pytest.mark.parametrize("top", ["acb", "ca", ""])
def test_an_order_that_a_later_rung_changes_again_cannot_be_restored(top):
    with pytest.raises(ConfigError, match=r"a later rung changes the order of data\.augment again"):
        undo(labelled(top), labelled("abc"), labelled("cab"))


def test_choices_that_a_later_rung_reorders_are_not_undone():
    def rung(order):
        choices = labelled(order)["data"]["augment"]
        return {"data": {"augment": {"one_of": {"choices": choices}}}}

    below = {"data": {"augment": {}}}
    assert undo(rung("ab"), below, rung("ab")) == below
    with pytest.raises(ConfigError, match=r"a later rung changes data\.augment\.one_of again"):
        undo(rung("ba"), below, rung("ab"))
    undone = undo(rung("ab"), rung("ba"), rung("ab"))
    assert list(undone["data"]["augment"]["one_of"]["choices"]) == ["b", "a"]


@given(st.permutations("abcdef"), st.permutations("abcdef"), st.integers(0, 6), st.integers(0, 6), st.data())
def test_undo_is_exact_whatever_a_rung_moves_adds_and_removes(one, other, m, n, data):
    below, rung = labelled(one[:m], a=0.5), labelled(other[:n], b=0.5)
    if differences(below, rung) == {}:
        return
    undone = undo(rung, below, rung)
    assert undone == below
    assert order_of(undone) == order_of(below)
    # What a later rung adds stays, and leaves the rest in the order below.
    top = list(other[:n])
    for label in "xy":
        top.insert(data.draw(st.integers(0, len(top))), label)
    undone = order_of(undo(labelled(top, b=0.5), below, rung))
    assert sorted(undone) == sorted([*one[:m], "x", "y"])
    assert [label for label in undone if label in one] == list(one[:m])


def test_the_ladder_is_trained_and_each_rung_compared_with_the_one_below(tmp_path, cifarlab):
    runs = tmp_path / "runs"
    tiny = once(*TINY, "train.epochs=1")
    words = ("ladder", "ladder/1", *tiny, "--runs", runs, "--seeds", 2)
    status, out, err = cifarlab(*words, "--drop-one", "--json")
    assert status == 0, err
    found = json.loads(out)
    rungs = ["ladder/10_trivial_augment", "ladder/11_sam", "ladder/12_wide"]
    assert [arm["name"] for arm in found["arms"]] == rungs
    assert [arm["difference"] and arm["difference"]["from"] for arm in found["arms"]] == [None, *rungs[:2]]
    assert [row["left_out"] for row in found["drop_one"]] == rungs[1:]
    # The tiny backbone replaces both: without its own change the top is the rung below it.
    sam, wide = found["drop_one"]
    assert wide["name"] == rungs[1]
    assert wide["difference"]["mean"] == 0
    without = Run(runs / "ladder/12_wide_without_11_sam" / "0")
    assert without.plain_config()["optim"]["sharpness"] is None
    top = found["arms"][-1]
    assert [*found][-1] == "drop_one"
    assert [*sam] == ["left_out", *top]
    assert sam["difference"]["mean"] == pytest.approx(top["mean"] - sam["mean"])
    status, out, _ = cifarlab("ladder", "ladder/1", "--drop-one", "--runs", runs)
    assert status == 0
    assert f"with {rungs[1]}: no difference shown" in out
    assert "opened 0 x" in out


def test_a_rung_whose_seeds_differ_is_refused(tmp_path, cifarlab):
    runs = tmp_path / "runs"
    for rung in ("10_trivial_augment", "11_sam", "12_wide"):
        train_tiny(runs / "ladder" / rung / "0", "train.epochs=1")
    train_tiny(runs / "ladder" / "11_sam" / "1", "train.epochs=1", "train.seed=1", "optim.weight_decay=0.5")
    status, out, err = cifarlab("ladder", "ladder/1", "--runs", runs)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "ladder/11_sam: seeds 0 and 1 " in err
    assert "optim.weight_decay: " in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["leiter/"], "needs two recipes"),
        (["ladder/12"], "needs two recipes"),
        (["ladder/1"], "add --seeds 3"),
        (["ladder/1", "optim.lr=1"], "number of seeds"),
    ],
)
def test_a_mistake_is_one_line(cifarlab, tmp_path, arguments, message):
    status, _, err = cifarlab("ladder", *arguments, "--runs", tmp_path / "runs")
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
