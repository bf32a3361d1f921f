import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.core.files import file_digest
from cifarlab.data.splits import Pictures, load_splits, read_data
from cifarlab.evaluation.audit import audit as module
from cifarlab.evaluation.audit.audit import audit, data_and_runs
from cifarlab.runs.ledger import openings
from cifarlab.runs.model import load_trained
from tests.evaluation.audit.conftest import noise, pictures
from tests.tiny import train_tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two seeds of a tiny run, each with 100 of 300 pictures held out."""
    folder = tmp_path_factory.mktemp("runs")
    return [train_tiny(folder / "a" / str(seed), f"train.seed={seed}")[0].folder for seed in (0, 1)]


def test_published_cifar_100(cifar100_root, cifarlab, tmp_path):
    status, out, _ = cifarlab("audit", "--root", cifar100_root, "--no-near", "--json", "--out", tmp_path)
    report = json.loads(out)
    assert status == 0
    assert report["pictures"] == {"train": 50_000, "test": 10_000}
    assert report["duplicates_in_train"] == 14
    assert report["duplicates_in_test"] == 2
    assert report["test_in_train"] == 10
    assert report["test_in_train_same_label"] == 4
    balance = report["class_balance"]["train"]
    assert balance["smallest"][1] == balance["largest"][1] == 500
    del report["sheet"]
    assert json.loads((tmp_path / "audit.json").read_text()) == report


def test_a_data_set_by_name(planted, cifarlab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = noise(12, 0)
    images[1], images[10] = images[0], images[2][:, :, ::-1]
    labels = np.arange(12) % 4
    name = planted(train=pictures(images[:9], labels[:9]), test=pictures(images[9:], labels[9:]))
    status, out, _ = cifarlab("audit", name)
    assert status == 0
    lines = out.splitlines()
    assert lines[0].startswith("train: 9 pictures, 4 classes of 2 (class_1) to 3 (class_0); 1 surplus")
    assert lines[2] == "test in train: 0 exact copies (0 with the same label), 1 near duplicates"
    assert lines[-1] == str(tmp_path / "audit" / "audit.png")
    with Image.open(lines[-1]) as sheet:
        assert sheet.width > 1000


def test_runs_tell_suspect_labels_of_what_they_were_not_trained_on(runs, cifarlab, tmp_path):
    status, out, _ = cifarlab("audit", *runs, "--json", "--out", tmp_path)
    assert status == 0
    report = json.loads(out)
    held = [set(load_splits(t.saved.data, t.saved.split_seed).val.ids.tolist())
            for t in map(load_trained, runs)]  # fmt: skip
    assert report["suspects_among"] == len(held[0] | held[1])
    assert [*report] == [
        "dataset", "pictures", "fingerprint", "class_balance", "duplicates_in_train", "duplicates_in_test",
        "test_in_train", "test_in_train_same_label", "near_threshold", "near_duplicates_in_train",
        "near_test_in_train", "near_duplicates_in_test", "pairs", "suspects", "suspects_among",
        "suspects_accuracy", "sheet",
    ]  # fmt: skip
    assert [*report["class_balance"]["train"]] == ["smallest", "largest", "counts"]
    assert [*report["suspects"][0]] == [
        "picture", "label", "suggested", "probability_of_label", "probability_of_suggested"
    ]  # fmt: skip
    assert {row["picture"][1] for row in report["suspects"]} <= held[0] | held[1]
    status, out, _ = cifarlab("audit", *runs, "--no-near", "--out", tmp_path)
    assert "errors of the models" in out, "two epochs make a weak model"


def test_a_model_that_sees_the_test_pictures_leaves_an_entry_in_its_ledger(runs):
    """The embedding that finds near duplicates is a model's; the comparison of bytes needs no model."""
    beside = runs[0].parents[1]
    before = openings(beside)
    data, trained = data_and_runs(runs)
    audit(data, runs=trained, near=False)
    audit(data)
    assert openings(beside) == before
    found = audit(data, runs=trained)
    *earlier, last = openings(beside)
    assert earlier == before
    assert (last["run"], last["reader"]) == ("a/0", "audit")
    assert last["fingerprint"] == found.report.fingerprint["test"]
    assert last["weights_sha256"] == file_digest(runs[0] / "best.pt")


def test_what_cannot_be_written_down_is_shown_to_no_model(runs, tmp_path, monkeypatch):
    alone = tmp_path / "best.pt"
    shutil.copy(runs[0] / "best.pt", alone)
    (tmp_path / "ledger.jsonl").mkdir()
    monkeypatch.setattr(module, "embeddings", lambda *_: pytest.fail("a model saw them"))
    data, trained = data_and_runs([str(alone)])
    with pytest.raises(Failure, match="so the test set is not read"):
        audit(data, runs=trained)


def test_planted_wrong_labels_are_those_that_a_sure_model_contradicts(tmp_path, monkeypatch):
    run, _ = train_tiny(tmp_path / "0", "data.dataset={name: synthetic, train: 1500, test: 100}",
                        "data.limit=300", "train.epochs=1")  # fmt: skip
    data, trained = data_and_runs([str(run.folder)])
    honest = read_data(data, "train")
    order, labels = honest.order(), honest.labels.copy()
    learned = set(load_splits(data, 0).train.ids.tolist())
    asked = [i for i in range(1500) if i not in learned]
    wrong = asked[::20]
    labels[order[wrong]] = (labels[order[wrong]] + 50) % 100
    # In place of the weak model one that is sure of the true label.
    monkeypatch.setattr(
        module, "_outputs",
        lambda trained, split: [(Output(8 * one_hot(torch.from_numpy(honest.labels)[split.rows], 100).float(),
                                        torch.zeros(0)), split.labels)],
    )  # fmt: skip
    monkeypatch.setattr(Pictures, "order", lambda self: order)  # Of the true labels.
    report = module.suspect_labels(replace(honest, labels=labels), trained)
    assert report.suspects_among == 1200
    assert {row.picture[1] for row in report.suspects} == set(wrong)
    assert all(row.probability_of_suggested > 0.9 for row in report.suspects)
    assert report.suspects_accuracy == 1 - 60 / 1200


def test_runs_that_held_nothing_out_cannot_tell(tmp_path):
    run, _ = train_tiny(tmp_path / "a" / "0", "data.val=0", "train.select=last", "train.epochs=1")
    data, trained = data_and_runs([str(run.folder)])
    for near in (False, True):
        with pytest.raises(ConfigError, match=r"data\.val=0\.1"):
            audit(data, runs=trained, near=near)
    assert openings(tmp_path) == [], "it was refused before anything was opened"


def test_what_is_neither_a_run_nor_a_data_set(runs, cifarlab, tmp_path):
    status, _, err = cifarlab("audit", "cifar1000", "--out", tmp_path)
    assert status == 2
    assert "no data set" in err
    assert "cifar100" in err
    for words in (["cifar10", "cifar100"], ["cifar10", runs[0]], [runs[0], "cifar10"]):
        status, _, err = cifarlab("audit", *words, "--out", tmp_path)
        assert status == 2
        assert err == "error: cifar10 is a data set: name one data set alone, or folders of runs\n"
    run, _ = train_tiny(tmp_path / "b" / "0", "data.dataset={name: synthetic, train: 310, test: 100}",
                        "train.epochs=1")  # fmt: skip
    status, _, err = cifarlab("audit", runs[0], run.folder, "--out", tmp_path)
    assert status == 2
    assert "another data set" in err
