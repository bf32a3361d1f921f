"""`Objective`: names, weights, losses with parameters of their own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import LOSSES
from cifarlab.objectives.objective import build_objective

pytestmark = pytest.mark.quick


class Centers(nn.Module):
    """A loss with parameters: the squared distance to a learned centre of each class."""

    def __init__(self, num_classes: int, num_features: int, *, start: float = 0.0):
        super().__init__()
        self.centers = nn.Parameter(torch.full((num_classes, num_features), start))

    def forward(self, batch: Batch, output: Output) -> Tensor:
        return (output.embedding - self.centers[batch.labels]).square().mean()


def per_sample(batch: Batch, output: Output) -> Tensor:
    return output.logits.sum(1)


@pytest.fixture(autouse=True)
def _own_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSSES, "_parts", dict(LOSSES._parts))
    LOSSES.register(Centers, name="centers")
    LOSSES.register(per_sample)


def example() -> tuple[Batch, Output]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6) % 3
    logits = torch.randn(6, 3, generator=generator)
    embedding = torch.randn(6, 4, generator=generator)
    targets = F.one_hot(labels, 3).float()
    return Batch(torch.zeros(6, 3, 2, 2), labels, targets, labels), Output(logits, embedding)


def objective(**specs):
    return build_objective({label: LOSSES.spec(spec) for label, spec in specs.items()}, 3, 4)


def test_total_is_the_weighted_sum_of_unweighted_losses():
    losses = objective(
        plain={"name": "cross_entropy", "weight": 0.3},
        soft={"name": "cross_entropy", "smoothing": 0.5, "weight": 2},
        centers={"name": "centers", "start": 1, "weight": 0.1},
    )(*example())
    assert list(losses) == ["plain", "soft", "centers", "total"]
    torch.testing.assert_close(
        losses["total"], 0.3 * losses["plain"] + 2 * losses["soft"] + 0.1 * losses["centers"]
    )
    assert losses["plain"] != losses["soft"]


def test_parameters_of_a_loss_are_the_objectives():
    first = objective(cross_entropy="cross_entropy", train={"name": "centers", "start": 2})
    assert [name for name, _ in first.named_parameters()] == ["loss_train.centers"]
    assert first.get_parameter("loss_train.centers").shape == (3, 4)
    first(*example())["total"].backward()
    assert first.get_parameter("loss_train.centers").grad is not None
    second = objective(cross_entropy="cross_entropy", train="centers")
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*example())["total"], second(*example())["total"])
    assert not list(objective(cross_entropy="cross_entropy").state_dict())


def test_a_loss_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match=r"objective\.per_sample: returned shape \[6\]"):
        objective(per_sample="per_sample")(*example())
