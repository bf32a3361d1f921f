"""How far a classifier's confidence is from its accuracy, and the temperature that brings it nearest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Within which `best_temperature` searches: pictures that are all classified rightly have no best one.
COLDEST, HOTTEST = 1 / 20, 20.0


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes the cross-entropy of (N, C) logits / temperature least (Guo et al. 2017).

    Searched for between COLDEST and HOTTEST.
    """
    logits = logits.double()
    target = logits.gather(1, labels[:, None])[:, 0]
    low, high = 1 / HOTTEST, 1 / COLDEST  # Of 1 / temperature: the loss is convex in it.
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = (logits * (logits * middle).softmax(-1)).sum(-1)
        low, high = (low, middle) if (expected - target).mean() > 0 else (middle, high)
    return 1 / (low * high) ** 0.5


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Mean distance, over pictures, of confidence from accuracy within bins of equal confidence, in [0, 1].

    logits: (N, C). Confidence is the largest probability; bins are of equal width (Naeini et al. 2015; Guo et
    al. 2017).
    """
    confidence, guess = logits.double().softmax(-1).max(-1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    excess = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    excess.index_add_(0, place, confidence - (guess == labels).double())
    return excess.abs().sum().item() / len(labels)


def calibration(logits: Tensor, labels: Tensor, temperature: float | None) -> dict[str, float | None]:
    """Mean negative log-likelihood `nll`, in nats, and `ece`, as they are and with logits / temperature.

    logits: (N, C). temperature: fitted on other pictures, those of validation; None: there were none.
    """
    found: dict[str, float | None] = dict(
        zip(("nll", "ece"), _of(logits, labels), strict=True), temperature=temperature
    )
    after = _of(logits / temperature, labels) if temperature is not None else (None, None)
    return found | dict(zip(("nll_calibrated", "ece_calibrated"), after, strict=True))


def _of(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    nll = F.cross_entropy(logits.double(), labels).item()
    return nll, expected_calibration_error(logits, labels)
