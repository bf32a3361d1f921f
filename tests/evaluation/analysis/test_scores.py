import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from cifarlab.engine.calibration import expected_calibration_error
from cifarlab.evaluation.analysis import scores

pytestmark = pytest.mark.quick


def answers(seed, count=400, classes=7, sharpness=3.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    return torch.from_numpy(sharpness * logits), torch.from_numpy(labels)


@given(st.integers(0, 50))
def test_the_loss_is_sklearns(seed):
    logits, labels = answers(seed)
    probabilities, truth = scores.softmax(logits), labels.numpy()
    found = scores.losses(probabilities, truth)
    assert found["nll"] == pytest.approx(sklearn.metrics.log_loss(truth, probabilities, labels=range(7)))


def test_a_certain_and_wrong_answer_has_a_finite_loss():
    found = scores.losses(np.array([[1.0, 0.0]]), np.array([1]))
    assert math.isfinite(found["nll"])
    assert found["nll"] > 700
    assert found["ece"] == 1


def test_temperature_scaling_is_the_best_one_of_scipy_and_is_cross_fitted():
    logits, labels = answers(0, 2000, sharpness=4.0)

    def best(x, y):
        return optimize.minimize_scalar(
            lambda t: -(torch.from_numpy(np.asarray(x)) / t).log_softmax(-1)[range(len(y)), y].mean().item(),
            bounds=(0.1, 20), method="bounded", options={"xatol": 1e-7},
        ).x  # fmt: skip

    other = answers(1, 1000, sharpness=2.0)
    probabilities, (temperature,) = scores.scaled_by_temperature(logits, labels, other)
    assert temperature == pytest.approx(best(*other), rel=1e-4)
    np.testing.assert_allclose(probabilities, scores.softmax(logits / temperature))
    probabilities, (even, odd) = scores.scaled_by_temperature(logits, labels, None)
    assert even == pytest.approx(best(logits[1::2], labels[1::2]), rel=1e-4)
    assert odd == pytest.approx(best(logits[::2], labels[::2]), rel=1e-4)
    np.testing.assert_allclose(probabilities[::2], scores.softmax(logits[::2] / even))
    before = scores.losses(scores.softmax(logits), labels.numpy())["ece"]
    assert scores.losses(probabilities, labels.numpy())["ece"] < before / 3


def test_confusion_is_sklearns_and_gathers_into_superclasses():
    logits, labels = answers(2, classes=6)
    guesses, truth = logits.argmax(-1).numpy(), labels.numpy()
    matrix = scores.confusion(guesses, truth, 6)
    assert np.array_equal(matrix, sklearn.metrics.confusion_matrix(truth, guesses, labels=range(6)))
    of = (0, 2, 1, 0, 2, 2)
    coarse = np.array(of)
    expected = sklearn.metrics.confusion_matrix(coarse[truth], coarse[guesses], labels=range(3))
    assert np.array_equal(scores.gathered(matrix, of), expected)
    recall = sklearn.metrics.recall_score(truth, guesses, average=None, labels=range(6))
    found = scores.by_class(matrix, "abcdef")
    assert [found[name] for name in "abcdef"] == pytest.approx(recall)
    assert list(found.values()) == sorted(found.values())
    worst = scores.most_confused(matrix, "abcdef", count=3)
    off = matrix - np.diag(np.diag(matrix))
    assert [row.count for row in worst] == sorted(off.ravel(), reverse=True)[:3]
    assert all(off["abcdef".index(r.label), "abcdef".index(r.guess)] == r.count for r in worst)


def test_a_class_without_pictures_has_no_accuracy():
    matrix = scores.confusion(np.array([0, 1]), np.array([0, 0]), 3)
    assert scores.by_class(matrix, "abc") == {"a": 0.5, "b": None, "c": None}
    assert len(scores.most_confused(matrix, "abc")) == 1


def test_pictures_worth_a_look():
    logits, labels = answers(3)
    probabilities, truth = scores.softmax(logits), labels.numpy()
    hardest, confident = scores.rows_worth_a_look(probabilities, probabilities.argmax(1), truth, 10)
    own = probabilities[np.arange(400), truth]
    assert own[hardest].max() <= np.delete(own, hardest).min()
    wrong = probabilities.argmax(1) != truth
    assert wrong[confident].all()
    rest = np.setdiff1d(np.flatnonzero(wrong), confident)
    assert probabilities[confident].max(1).min() >= probabilities[rest].max(1).max()


def test_a_confidence_at_the_border_of_two_bins_counts_in_the_same_one_for_the_error():
    probabilities = np.array([[0.25] * 4, [0.4, 0.2, 0.2, 0.2]])  # Of four bins, 0.25 is a border.
    guesses, labels = np.array([0, 0]), np.array([0, 1])
    bins = scores.reliability(probabilities, guesses, labels, bins=4)
    error = sum(each.count * abs(each.confidence - each.accuracy) for each in bins) / 2
    logits = torch.from_numpy(np.log(probabilities))
    expected = expected_calibration_error(logits, torch.from_numpy(labels), bins=4)
    assert error == pytest.approx(expected)
