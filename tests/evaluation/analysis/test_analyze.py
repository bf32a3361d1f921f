import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlab.data.splits import load_splits, load_test
from cifarlab.engine import scoring
from cifarlab.evaluation.analysis.analyze import analyze
from cifarlab.evaluation.score import evaluate
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import count_openings
from cifarlab.runs.model import load_trained
from tests.tiny import train_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("runs") / "tiny" / "0")[0].folder


def scores_epoch(run):
    return json.loads((run / "summary.json").read_text())["chosen_epoch"]


def test_a_run_on_validation(run, cifarlab, monkeypatch):
    monkeypatch.setattr(
        "cifarlab.evaluation.sealed.load_test", lambda data: pytest.fail("the test pictures are sealed")
    )
    status, out, _ = cifarlab("analyze", run, "--corruptions")
    assert status == 0
    assert "a gap of" in out
    assert "superclass accuracy" in out
    assert "corrupted:" in out
    with Image.open(out.splitlines()[-1]) as page:
        assert page.width > 1000
    assert (run / "analysis_pictures.png").exists()
    report = json.loads((run / "analysis.json").read_text())
    scores = evaluate(run, split="val")
    assert (report["top1"], report["top5"]) == (scores.top1, scores.top5)
    assert report["nll"] == pytest.approx(scores.loss, rel=1e-5)
    assert np.trace(report["confusion"]) == round(100 * report["top1"])
    coarse = np.array(report["superclass_confusion"]["counts"])
    assert np.trace(coarse) / coarse.sum() == pytest.approx(report["superclass_top1"])
    assert report["superclass_top1"] >= report["top1"]
    assert len(report["by_class"]) == 100
    assert len(report["by_superclass"]) == 20
    assert report["gap"] == pytest.approx(report["train_top1"] - report["top1"])
    assert len(report["temperatures"]) == 2, "each half by the other's"
    assert [len(report["corruptions"][kind]) for kind in ("gaussian_noise", "jpeg")] == [5, 5]
    assert report["epoch"] == scores_epoch(run)
    assert report["anchor"] is None, "no figures of the synthetic data set"
    assert [*report] == [
        "run", "epoch", "split", "pictures", "remark", "warnings", "top1", "top5", "nll", "ece",
        "reliability", "temperatures", "after_temperature", "classes", "by_class", "most_confused",
        "confusion", "superclass_top1", "by_superclass", "superclass_confusion", "train_top1", "gap",
        "without_near_duplicates", "corruptions", "hardest", "confident_errors", "anchor",
    ]  # fmt: skip
    assert [*report["hardest"][0]] == [
        "position", "id", "label", "guess", "probability", "probability_of_label"
    ]  # fmt: skip


def test_ties_are_no_gift(run, monkeypatch):
    """Logits of bfloat16 are equal now and then; here most are: `eval` and `analyze` say the same of them."""
    answer = scoring._answer

    def coarse(*given):
        output = answer(*given)
        return replace(output, logits=output.logits.round())

    monkeypatch.setattr(scoring, "_answer", coarse)
    report, scores = analyze(run, near=False).report, evaluate(run, split="val")
    assert (report.top1, report.top5) == (scores.top1, scores.top5)
    assert report.top1 < 0.5, "a first place that is shared is not the label's"
    assert np.trace(report.confusion) == round(100 * report.top1)
    bins = report.reliability
    assert sum(each.count * each.accuracy for each in bins) == pytest.approx(100 * report.top1)
    assert report.gap == report.train_top1 - report.top1
    assert all(row.guess != row.label for row in report.confident_errors)


def test_starting_over_leaves_no_analysis_of_the_old_model(tmp_path):
    run, _ = train_tiny(tmp_path / "0", "train.epochs=1")
    analyzed = ("analysis.json", "analysis_test.png", "analysis_pictures.png")
    for name in (*analyzed, "plot.png", "env.damaged", "mine.txt"):
        (run.folder / name).write_text("{}")
    run.start_over()
    assert not [path for path in run.folder.iterdir() if path.suffix in (".json", ".png", ".damaged")]
    assert (run.folder / "mine.txt").exists()


def test_hard_pictures_are_named_as_the_split_names_them(run):
    found = analyze(run, near=False)
    split = load_splits(load_trained(run).saved.data, 0).val
    model = load_trained(run).model
    for row in found.report.confident_errors[:5]:
        images, labels, ids = split.gather(torch.tensor([row.position]))
        assert ids.item() == row.id
        assert model.classes[labels] == row.label != row.guess
        with torch.no_grad():
            probabilities = model(images).logits.softmax(-1)[0]
        assert model.classes[probabilities.argmax()] == row.guess
        assert probabilities.max().item() == pytest.approx(row.probability, abs=0.02)


def test_the_test_pictures_are_opened_only_when_asked_and_it_is_written_down(run, cifarlab):
    assert count_openings(Run(run))["run"] == 0
    report = json.loads(cifarlab("analyze", run, "--split", "test", "--no-near", "--json")[1])
    assert count_openings(Run(run))["run"] == 1
    assert (run / "analysis_test.png").exists()
    assert len(report["temperatures"]) == 1, "fitted on the validation pictures"
    assert not {"without_near_duplicates", "corruptions"} & report.keys(), "not asked for"
    assert report["pictures"] == len(load_test(load_trained(run).saved.data)[0])
    status, _, err = cifarlab("analyze", run, "--split", "train")
    assert status == 2
    assert "val" in err


def test_pictures_that_are_among_the_training_pictures_are_left_out(run, monkeypatch):
    known = np.arange(100) % 4 == 0
    monkeypatch.setattr("cifarlab.evaluation.analysis.analyze.is_among", lambda ours, theirs: known)
    report = analyze(run).report
    found = report.without_near_duplicates
    assert found.near_duplicates == 25
    assert found.top1 is not None
    assert found.top1_on_near_duplicates is not None
    whole = 0.75 * found.top1 + 0.25 * found.top1_on_near_duplicates
    assert whole == pytest.approx(report.top1)
