"""Temperatures and calibration errors, against scipy and sums written out with numpy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from cifarlab.engine.calibration import best_temperature, calibration, expected_calibration_error

pytestmark = pytest.mark.quick


def answers(seed, scale, classes, count=300):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * scale
    labels = np.where(rng.random(count) < 0.5, logits.argmax(1), rng.integers(0, classes, count))
    return logits, labels


def written_out(logits, labels, bins):
    """ECE as Guo et al. (2017) state it: over bins, |B| / n x |accuracy(B) - confidence(B)|."""
    probabilities = softmax(logits, axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges, total = np.linspace(0, 1, bins + 1), 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


@given(st.integers(0, 10_000), st.floats(0.1, 30), st.integers(2, 30), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_the_calibration_error_is_the_sum_over_bins(seed, scale, classes, bins):
    logits, labels = answers(seed, scale, classes)
    found = expected_calibration_error(torch.from_numpy(logits), torch.from_numpy(labels), bins=bins)
    assert found == pytest.approx(written_out(logits, labels, bins), abs=1e-9)


def test_the_calibration_error_of_what_is_known():
    sure = torch.tensor([[1e4, 0.0]]).repeat(10, 1)
    assert expected_calibration_error(sure, torch.zeros(10, dtype=torch.int64)) == 0
    assert expected_calibration_error(sure, torch.arange(10) % 2) == pytest.approx(0.5)


@given(st.integers(0, 10_000), st.floats(0.3, 6), st.integers(2, 30))
@settings(max_examples=20, deadline=None)
def test_the_best_temperature_has_scipys_least_loss(seed, scale, classes):
    logits, labels = answers(seed, scale, classes)

    def loss(log_temperature):
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(300), labels].mean()

    best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-6})
    tensors = torch.from_numpy(logits), torch.from_numpy(labels)
    found = calibration(*tensors, best_temperature(*tensors))
    assert found["nll"] == pytest.approx(loss(0.0))
    assert found["nll_calibrated"] == pytest.approx(best.fun, abs=1e-7)
    cooled = logits / found["temperature"]
    assert found["ece_calibrated"] == pytest.approx(written_out(cooled, labels, 15), abs=1e-9)


def test_without_a_temperature_nothing_is_calibrated():
    logits, labels = map(torch.from_numpy, answers(0, 2.0, 5))
    found = calibration(logits, labels, None)
    assert found["temperature"] is found["nll_calibrated"] is found["ece_calibrated"] is None
    assert found["ece"] == expected_calibration_error(logits, labels)
