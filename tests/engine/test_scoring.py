import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cifarlab.core.batch import Output
from cifarlab.core.device import Precision, pick_device, pick_precision
from cifarlab.core.errors import ConfigError
from cifarlab.data.splits import Split
from cifarlab.engine.scoring import score_split

pytestmark = pytest.mark.quick

PRECISION = Precision(torch.device("cpu"), torch.float32)
# Two equal bytes would be a tie, which `argmax` and `topk` may break either way.
TIES = torch.arange(7) / 10


class Fixed(nn.Module):
    """Says of a picture what its first pixels hold, and whether it is training."""

    def forward(self, images, size=None):
        assert not self.training
        logits = images[:, 0, 0, :7].float() + TIES
        return Output(logits, logits)


def split(count):
    pictures = torch.randint(
        0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(count) % 7
    return Split(pictures, torch.arange(count), labels, torch.arange(count))


@pytest.mark.parametrize("count", [1, 499, 1201])
def test_scores_are_those_of_one_big_batch(count):
    data, model = split(count), Fixed().train()
    scores = score_split(model, data, PRECISION, 32)
    logits = data.images[:, 0, 0, :7].float() + TIES
    assert model.training, "the mode is restored"
    assert scores["loss"] == pytest.approx(F.cross_entropy(logits, data.labels).item(), rel=1e-5)
    assert scores["top1"] == pytest.approx((logits.argmax(-1) == data.labels).float().mean().item())
    top5 = (logits.topk(5).indices == data.labels[:, None]).any(1)
    assert scores["top5"] == pytest.approx(top5.float().mean().item())


def test_devices_and_precisions():
    assert pick_device("cpu").type == "cpu"
    for name in ("gpu", "mps", "cuda:99"):
        with pytest.raises(ConfigError, match=r"use|leave"):
            pick_device(name)
    cpu = torch.device("cpu")
    assert pick_precision("float32", cpu).dtype == torch.float32
    assert pick_precision("auto", cpu).dtype in (torch.float32, torch.bfloat16)
    with pytest.raises(ConfigError, match="float16 needs"):
        pick_precision("float16", cpu)
    assert pick_precision("float16", torch.device("cuda")).scaled
