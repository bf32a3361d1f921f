"""Ensembles and soups of real runs, against the outputs of their single models."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import log_softmax, softmax

import cifarlab
from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.data.splits import load_splits, load_test
from cifarlab.engine.calibration import best_temperature, expected_calibration_error
from cifarlab.evaluation.ensemble import evaluate_ensemble, forward_selection
from cifarlab.evaluation.score import evaluate
from cifarlab.evaluation.soup import average, average_weights, make_soup
from cifarlab.evaluation.tta import MEANS, TTA, mean_of_probabilities
from cifarlab.runs.folder import Run
from cifarlab.runs.model import BEST, load_trained
from tests.teachers.taught import MARGIN
from tests.tiny import PARTS, train_tiny

DATA = Path(__file__).parents[1] / "blob_pictures.py"
BLOBS = (
    f"imports=[{PARTS}, {DATA}]", "data.dataset=blobs", "data.split_seed=0", "data.augment=null",
    "optim.lr=1e-2", "train.precision=float32", "train.epochs=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs that share their validation pictures, and four that do not."""
    folder = tmp_path_factory.mktemp("runs")
    for name, overrides in {
        "a/0": ("train.epochs=8",),
        "a/1": ("train.seed=1", "train.epochs=2"),
        "a/2": ("train.seed=2", "train.epochs=2"),
        "large/0": ("data.image_size=48", "data.store_size=32", "model.normalize=dataset", "train.epochs=3"),
        "margin/0": (*MARGIN, "train.epochs=3"),
        "wide/0": ("model.backbone={name: tiny, width: 12}",),
        "stranger/0": ("data.split_seed=1",),
        "elsewhere/0": ("data.dataset={name: blobs, train: 390}",),
        "all/0": ("data.val=0", "train.select=last"),
        "all/1": ("data.val=0", "train.select=last", "train.seed=1"),
    }.items():
        train_tiny(folder / name, *BLOBS, *overrides)
    return folder


def logits_of(run, split):
    """(N, C) of a run's model, asked for all pictures at once, and their labels."""
    trained = load_trained(run)
    config = trained.saved
    pictures = (
        load_test(config.data)[0] if split == "test" else load_splits(config.data, config.split_seed).val
    )
    images, labels, _ = pictures.gather(torch.arange(len(pictures)))
    with torch.inference_mode():
        return trained.model(images).logits.double(), labels


def summary_of(run):
    summary = Run(run).summary()
    assert summary is not None
    return summary


def top1(logits, labels):
    return (np.asarray(logits).argmax(1) == np.asarray(labels)).mean()


def test_eval_says_what_it_is_calibrated_to(runs):
    run = runs / "a" / "0"
    temperature = best_temperature(*logits_of(run, "val"))
    logits, labels = logits_of(run, "test")
    found = evaluate(run, split="test", device="cpu")
    assert found.temperature == pytest.approx(temperature, rel=1e-3)
    assert found.ece == pytest.approx(expected_calibration_error(logits, labels), abs=1e-4)
    truth = -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()
    assert found.nll_calibrated == pytest.approx(truth, abs=1e-4)
    assert found.nll == pytest.approx(found.loss, abs=1e-4)
    after = expected_calibration_error(logits / temperature, labels)
    assert found.ece_calibrated == pytest.approx(after, abs=2e-3)
    assert evaluate(runs / "all" / "0", split="test", device="cpu").temperature is None


def test_eval_with_views(runs, cifarlab):
    run = runs / "a" / "1"
    own = json.loads(cifarlab("eval", run, "--split", "test", "--json")[1])
    status, out, _ = cifarlab("eval", run, "--split", "test", "--tta", "flip", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["top1"] == own["top1"]
    assert own["tta"] is None
    trained = load_trained(run)
    images, labels, _ = load_test(trained.saved.data)[0].gather(torch.arange(found["pictures"]))
    with torch.inference_mode():
        both = [trained.model(view).logits for view in (images, images.flip(-1))]
    assert found["tta"]["top1"] == pytest.approx(top1(sum(both), labels), abs=0.003)
    assert (found["forward_passes"], found["tta"]["forward_passes"]) == (1, 2)
    assert found["images_per_second"] > 0
    assert found["tta"]["images_per_second"] > 0
    # The summary keeps what the model says of a picture as it is.
    assert summary_of(run).test_top1 == own["top1"]
    out = cifarlab("eval", run, "--tta", "{name: multi_crop, pixels: 2}", "--mean", "probabilities")[1]
    assert "18 forward passes per picture" in out
    assert "calibration error" in out


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("mean", MEANS)
def test_an_ensemble_is_the_mean_of_its_calibrated_members(runs, mean, split):
    paths = [runs / "a" / "0", runs / "large" / "0", runs / "margin" / "0"]
    found = evaluate_ensemble(paths, split, device="cpu", mean=mean)
    cooled, labels = [], torch.empty(0)
    for path, row in zip(paths, found.members, strict=True):
        temperature = best_temperature(*logits_of(path, "val"))
        logits, labels = logits_of(path, split)
        assert row.temperature == pytest.approx(temperature, rel=1e-3)
        assert row.top1 == pytest.approx(top1(logits, labels), abs=0.003)
        assert row.val_top1 == pytest.approx(top1(*logits_of(path, "val")), abs=0.03)
        cooled.append(logits / temperature)
    together = np.stack(cooled)
    together = np.log(softmax(together, axis=-1).mean(0)) if mean == "probabilities" else together.mean(0)
    assert found.top1 == pytest.approx(top1(together, labels), abs=0.003)
    truth = -log_softmax(together, axis=1)[np.arange(len(labels)), labels].mean()
    assert found.nll == pytest.approx(truth, abs=1e-3)
    assert found.chosen_on_val == []
    best = next(row for row in found.members if row.run == found.best_member)
    assert best.val_top1 == max(row.val_top1 for row in found.members)
    assert best.top1 is not None
    assert found.gain == pytest.approx(found.top1 - best.top1)
    assert [row.image_size for row in found.members] == [32, 48, 32]


def test_what_an_ensemble_costs(runs):
    paths = [runs / "a" / "0", runs / "large" / "0"]
    macs = [summary_of(path).macs for path in paths]
    found = evaluate_ensemble(paths, "val", device="cpu", tta=TTA.spec("flip"))
    assert [row.macs for row in found.members] == [2 * count for count in macs]
    assert (found.forward_passes, found.macs) == (4, 2 * sum(macs))


def copies_of(run, folder, count):
    """The same run at several places."""
    return [shutil.copytree(run, folder / f"copy_{i}" / "0") for i in range(count)]


def test_an_ensemble_of_equals_is_its_member(runs, tmp_path):
    run = runs / "a" / "0"
    found = evaluate_ensemble([run, *copies_of(run, tmp_path, 1)], "test", device="cpu")
    alone = evaluate(run, split="test", device="cpu")
    assert (found.top1, found.gain) == (alone.top1, 0)
    assert found.nll == pytest.approx(alone.nll_calibrated, abs=1e-5)


def test_nothing_is_chosen_on_test(runs, monkeypatch):
    """Members and mean are the same whatever the test pictures hold, which are opened for the chosen only."""
    paths = [runs / "a" / seed for seed in "012"]
    on_val = evaluate_ensemble(paths, "val", device="cpu", choose=True)
    opened = []

    def scrambled(path, trained, split, reader):
        opened.append((path, split))
        found = open_split(path, trained, split, reader)
        found.pictures.labels.copy_((found.pictures.labels + 1) % 10)
        return found

    from cifarlab.evaluation.sealed import open_split

    monkeypatch.setattr("cifarlab.evaluation.ensemble.open_split", scrambled)
    on_test = evaluate_ensemble(paths, "test", device="cpu", choose=True)
    assert on_test.mean == on_val.mean
    chosen = [row.run for row in on_val.members if row.chosen]
    assert [row.run for row in on_test.members if row.chosen] == chosen
    assert sorted(opened) == sorted((path, "test") for path in chosen)
    assert on_test.chosen_on_val == ["mean", "members"]


@given(st.integers(0, 1000), st.integers(1, 6))
@settings(max_examples=20, deadline=None)
def test_forward_selection_stops_where_no_member_improves(seed, count):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 40)
    logits = rng.normal(size=(count, 40, 4)) + 1.5 * np.eye(4)[labels]

    def rating(members):
        mean = softmax(logits[members], axis=-1).mean(0)
        return round((mean.argmax(1) == labels).mean(), 9), round(np.log(mean)[range(40), labels].mean(), 9)

    first = max(range(count), key=lambda i: rating([i]))
    tensors = torch.from_numpy(logits), torch.from_numpy(labels)
    chosen = forward_selection(*tensors, mean_of_probabilities, first)
    assert chosen[0] == first
    assert len(set(chosen)) == len(chosen)
    for end in range(1, len(chosen)):
        rest = [i for i in range(count) if i not in chosen[:end]]
        assert rating(chosen[: end + 1]) == max(rating([*chosen[:end], i]) for i in rest)
        assert rating(chosen[: end + 1]) > rating(chosen[:end])
    assert all(rating([*chosen, i]) <= rating(chosen) for i in range(count) if i not in chosen)


def test_runs_without_validation_pictures_have_a_mean_that_was_given(runs, tmp_path):
    run = runs / "all" / "0"
    pair = [run, *copies_of(run, tmp_path, 1)]
    found = evaluate_ensemble(pair, "test", device="cpu", mean="logits")
    assert found.top1 == evaluate(run, split="test", device="cpu").top1
    assert found.temperature is found.gain is None
    for split, options in (
        ("test", {}),
        ("val", {"mean": "logits"}),
        ("test", {"mean": "logits", "choose": True}),
    ):
        with pytest.raises(ConfigError, match=r"no validation pictures .*--split test and --mean"):
            evaluate_ensemble(pair, split, device="cpu", **options)


def test_the_command_shows_each_member_and_the_cost(runs, cifarlab):
    paths = [runs / "a" / seed for seed in "012"]
    status, out, _ = cifarlab("ensemble", *paths, "--tta", "flip")
    assert status == 0
    assert "ensemble of 3" in out
    assert "at 3.0 times its cost" in out
    assert "optimistic" in out
    found = json.loads(cifarlab("ensemble", *paths, "--choose", "--split", "test", "--json")[1])
    assert found["pictures"] == 200
    assert len(found["members"]) == 3
    assert [*found] == [
        "split", "pictures", "members", "mean", "chosen_on_val", "tta", "top1", "top5", "loss", "nll", "ece",
        "temperature", "nll_calibrated", "ece_calibrated", "best_member", "gain", "forward_passes", "macs",
        "warnings",
    ]  # fmt: skip
    assert [*found["members"][0]] == [
        "run", "chosen", "val_top1", "top1", "temperature", "image_size", "precision", "forward_passes",
        "macs",
    ]  # fmt: skip
    out = cifarlab("ensemble", *paths, "--choose", "--split", "test")[1]
    assert out.count("left out") == sum(not row["chosen"] for row in found["members"])


def test_a_soup_of_equals_is_each_of_them(runs, tmp_path):
    run, soup = runs / "a" / "0", Run(tmp_path / "soup" / "0")
    summary = make_soup([run, *copies_of(run, tmp_path, 2)], soup, device="cpu")
    state = load_trained(run).model.state_dict()
    made = cifarlab.load(soup.folder).state_dict()
    assert all(torch.equal(value, made[name]) for name, value in state.items())
    assert summary.soup.kept == 3
    for split in ("val", "test"):
        assert (
            evaluate(soup.folder, split=split, device="cpu").top1
            == evaluate(run, split=split, device="cpu").top1
        )


def saved_as(folder, run, weights):
    """The run, with other weights, as a folder of its own."""
    folder.mkdir(parents=True)
    checkpoints.save_checkpoint(
        folder / "best.pt", {**checkpoints.load_checkpoint(run / "best.pt", BEST), "model": weights}
    )
    return folder


def moved(weights, by):
    """Weights, each multiplied by almost 1."""
    random = torch.Generator().manual_seed(0)
    return {
        name: value * (1 + by * torch.randn(value.shape, generator=random)) if "weight" in name else value
        for name, value in weights.items()
    }


def test_a_soup_keeps_what_does_not_lower_validation(runs, tmp_path):
    own = load_trained(runs / "a" / "0")
    train = load_splits(own.saved.data, 0).train
    # Statistics of clean pictures, so that those of the soup's are not what changes the score.
    average_weights(
        own.model, [own.model.state_dict(), moved(own.model.state_dict(), 1e-6)], train, 32, own.precision
    )
    first = saved_as(tmp_path / "first", runs / "a" / "0", own.model.state_dict())
    near = saved_as(tmp_path / "near", runs / "a" / "0", moved(own.model.state_dict(), 1e-4))
    soup = Run(tmp_path / "soup" / "0")
    summary = make_soup([runs / "a" / "2", runs / "a" / "1", first, near], soup, device="cpu")
    entries = summary.soup.ingredients
    alone = [entry.val_top1 for entry in entries]
    assert alone == sorted(alone, reverse=True)
    best = alone[0]
    for entry in entries:
        assert entry.kept == (entry.soup_val_top1 >= best)
        best = max(best, entry.soup_val_top1)
    assert summary.val_top1 == best == evaluate(soup.folder, split="val", device="cpu").top1
    kept = [load_trained(entry.run).model for entry in entries if entry.kept]
    assert {entry.run for entry in entries if entry.kept} >= {str(first), str(near)}
    assert 2 <= len(kept) < 4
    made = cifarlab.load(soup.folder)
    for name, weights in made.named_parameters():
        values = torch.stack([model.get_parameter(name).detach() for model in kept])
        torch.testing.assert_close(weights.detach(), values.mean(0))


def test_the_mean_of_weights_sees_the_training_pictures(runs):
    one, other = load_trained(runs / "a" / "1"), load_trained(runs / "a" / "2")
    states = [copy.deepcopy(trained.model.state_dict()) for trained in (one, other)]
    train = load_splits(one.saved.data, 0).train
    average_weights(one.model, states, train, 50, one.precision)
    images = train.gather(torch.arange(len(train)))[0]
    conv, norm = map(one.model.get_submodule, ("backbone.0", "backbone.1"))
    with torch.inference_mode():
        maps = conv(one.model.preprocess(images))
    torch.testing.assert_close(norm.running_mean, maps.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    assert not torch.allclose(norm.running_mean, sum(s["backbone.1.running_mean"] for s in states) / 2)
    assert not any(part.training for part in one.model.modules())
    # Norms that the run left alone in training are left alone.
    other.model.load_state_dict(states[1])
    other.model.norms_in_eval = ("backbone.1",)
    average_weights(other.model, states, train, 50, other.precision)
    kept = torch.stack([state["backbone.1.running_mean"] for state in states]).mean(0)
    torch.testing.assert_close(other.model.get_submodule("backbone.1").running_mean, kept)


def test_means_of_weights_keep_types_and_integers():
    states = [{"w": torch.tensor([value]), "n": torch.tensor(count)} for value, count in ((0.1, 3), (0.4, 5))]
    found = average(states)
    assert found["w"].dtype == torch.float32
    assert found["w"].item() == pytest.approx(0.25)
    assert torch.equal(found["n"], torch.tensor(3))
    third = {"w": torch.tensor([0.1])}
    assert torch.equal(average([third] * 3)["w"], third["w"])


def test_a_soup_is_a_run_like_any_other(runs, tmp_path, cifarlab):
    paths, folder = [runs / "a" / seed for seed in "01"], tmp_path / "runs"
    status, out, err = cifarlab("soup", *paths, "--name", "broth", "--runs", folder)
    assert status == 0, err
    made = folder / "broth" / "0"
    assert "soup with it" in out
    assert str(made) in out
    assert sorted(path.name for path in made.iterdir()) == [
        "best.pt", "config.yaml", "env.json", "lock", "summary.json"]  # fmt: skip
    found = json.loads(cifarlab("eval", made, "--split", "test", "--json")[1])
    assert found["written"]
    assert summary_of(made).test_top1 == found["top1"]
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / "grey.png")
    assert cifarlab("predict", made, tmp_path / "grey.png")[1].count("%") == 5
    best = (made / "best.pt").read_bytes()
    status, _, err = cifarlab("soup", *paths, "--name", "broth", "--runs", folder)
    assert status == 2
    assert "replace it with --fresh" in err
    assert (made / "best.pt").read_bytes() == best
    others = [runs / "a" / seed for seed in "12"]
    assert cifarlab("soup", *others, "--name", "broth", "--runs", folder, "--fresh")[0] == 0
    assert {entry.run for entry in summary_of(made).soup.ingredients} == {*map(str, others)}
    status, _, err = cifarlab("soup", made, paths[0], "--name", "broth", "--runs", folder, "--fresh")
    assert status == 2
    assert "itself an ingredient" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ensemble", "a/0", "stranger/0"], "stranger/0 was trained on validation pictures of"),
        (["ensemble", "a/0", "all/0"], "all/0 was trained on validation pictures of"),
        (["ensemble", "a/0", "elsewhere/0"], "another data set than"),
        (["ensemble", "a/0", "a/7"], "a/7: no such run"),
        (["ensemble", "a/0", "--split", "tset"], "'tset' is not one of 'val', 'test'"),
        (["ensemble", "a/0", "--mean", "logit"], "'logit' is not one of 'logits', 'probabilities'"),
        (
            ["ensemble", "a/0", "--tta", "flop"],
            "tta: unknown test-time augmentation 'flop'; did you mean flip?",
        ),
        (["eval", "a/0", "--tta", "flop"], "did you mean flip?"),
        (["eval", "a/0", "--tta", "flip", "--mean", "median"], "'--mean': 'median' is not one of "),
        (["soup", "a/0", "stranger/0", "--name", "s"], "stranger/0 was trained on validation pictures of"),
        (["soup", "a/0", "wide/0", "--name", "s"], "wide/0 has another architecture than"),
        (["soup", "a/0", "margin/0", "--name", "s"], "`cifarlab ensemble` averages their outputs"),
        (["soup", "a/0", "large/0", "--name", "s"], "32 px there, 48 px here"),
        (["soup", "all/0", "all/1", "--name", "s"], "no validation pictures to choose on"),
        (["soup", "a/0", "--name", "s"], "needs two runs or more, got 1"),
        (["ensemble", "a/0", "a/0"], "a/0 is given twice"),
        (["soup", "a/0", "--name", "../s"], "a name, not a path"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_left(runs, cifarlab, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    paths = [runs / word if "/" in word and word[0] != "." else word for word in arguments]
    status, out, err = cifarlab(*paths)
    assert status == 2, out + err
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
