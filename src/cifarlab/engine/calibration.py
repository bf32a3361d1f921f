"""Calibration of a classifier: its calibration error, and temperature scaling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The limits of `best_temperature`: if all pictures are classified correctly, there is no best temperature.
COLDEST, HOTTEST = 1 / 20, 20.0


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimises cross-entropy (Guo et al. 2017).

    It is the T between 1/20 and 20 for which the cross-entropy of logits / T is least.

    Args:
        logits: (N, C).
        labels: (N,).
    """
    logits = logits.double()
    target = logits.gather(1, labels[:, None])[:, 0]
    low, high = 1 / HOTTEST, 1 / COLDEST  # bounds of 1 / temperature, in which the loss is convex
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = (logits * (logits * middle).softmax(-1)).sum(-1)
        low, high = (low, middle) if (expected - target).mean() > 0 else (middle, high)
    return 1 / (low * high) ** 0.5


def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Return the expected calibration error, in [0, 1].

    A picture's confidence is its largest probability. Pictures are grouped by confidence, in bins of equal
    width. A bin's error is the absolute difference of its mean confidence and its accuracy. The result is the
    mean of the bins' errors, weighted by their numbers of pictures (Naeini et al. 2015; Guo et al. 2017).

    Args:
        logits: (N, C).
        labels: (N,).
        bins: Number of bins.
    """
    confidence, guess = logits.double().softmax(-1).max(-1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    excess = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    excess.index_add_(0, place, confidence - (guess == labels).double())
    return excess.abs().sum().item() / len(labels)


def calibration(logits: Tensor, labels: Tensor, temperature: float | None) -> dict[str, float | None]:
    """Return calibration scores, without and with a temperature.

    Args:
        logits: (N, C).
        labels: (N,).
        temperature: Temperature fitted on other pictures (validation). None if there were none.

    Returns:
        A dict of five scores. `nll` is the mean negative log-likelihood in nats, `ece` the expected
        calibration error. `nll_calibrated` and `ece_calibrated` are the same for logits / temperature, or
        None without a temperature. `temperature` is the argument.
    """
    found: dict[str, float | None] = dict(
        zip(("nll", "ece"), _of(logits, labels), strict=True), temperature=temperature
    )
    after = _of(logits / temperature, labels) if temperature is not None else (None, None)
    return found | dict(zip(("nll_calibrated", "ece_calibrated"), after, strict=True))


def _of(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return (mean negative log-likelihood, expected calibration error)."""
    nll = F.cross_entropy(logits.double(), labels).item()
    return nll, expected_calibration_error(logits, labels)
