import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarlab.audit.labels import confident_labels, suspects

pytestmark = pytest.mark.quick


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(1, 40))
def test_confident_labels_are_the_papers_rule_word_by_word(seed, classes, count):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), count)
    labels = generator.integers(0, classes, count)
    thresholds = [np.mean([probabilities[i][j] for i in range(count) if labels[i] == j])
                  if j in labels else None for j in range(classes)]  # fmt: skip
    for i, found in enumerate(confident_labels(probabilities, labels)):
        reached = [
            j for j in range(classes) if thresholds[j] is not None and probabilities[i][j] >= thresholds[j]
        ]
        assert found == (max(reached, key=lambda j: probabilities[i][j]) if reached else -1)


def test_planted_wrong_labels_are_found():
    """A linear model that never saw the pictures it is asked of finds the labels that were exchanged."""
    generator = np.random.default_rng(0)
    centres = 3 * generator.normal(size=(5, 8))
    truth = generator.integers(0, 5, 1000)
    points = centres[truth] + generator.normal(size=(1000, 8))
    labels = truth.copy()
    wrong = generator.choice(1000, 50, replace=False)
    labels[wrong] = (truth[wrong] + generator.integers(1, 5, 50)) % 5
    probabilities = np.empty((1000, 5))
    for fold in range(5):
        held = np.arange(1000) % 5 == fold
        means = np.stack([points[~held & (labels == c)].mean(0) for c in range(5)])
        logits = -((points[held][:, None] - means) ** 2).sum(-1) / 2
        logits -= logits.max(1, keepdims=True)
        probabilities[held] = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    rows, others = suspects(probabilities, labels)
    found = set(rows.tolist())
    assert len(found & set(wrong.tolist())) >= 48
    assert len(found) <= 60
    assert np.mean(others == truth[rows]) > 0.9
    margins = probabilities[rows, others] - probabilities[rows, labels[rows]]
    assert (np.diff(margins) <= 0).all()


def test_right_labels_are_not_suspect():
    labels = np.arange(20) % 4
    rows, _ = suspects(np.eye(4)[labels] * 0.9 + 0.025, labels)
    assert len(rows) == 0


def test_a_label_that_no_picture_has_is_never_suggested():
    probabilities = np.array([[0.1, 0.2, 0.7], [0.3, 0.1, 0.6]])
    assert confident_labels(probabilities, np.array([0, 1])).tolist() == [1, 0]
