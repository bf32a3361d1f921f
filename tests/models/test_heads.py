"""Heads: what an `Output` holds, and its precision."""

import pytest
import torch
import torch.nn.functional as F

from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import HEADS
from cifarlab.models.heads import Linear, Margin

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("autocast", [False, True])
def test_every_head(name: str, autocast: bool):
    torch.manual_seed(0)
    head = HEADS.spec(name).build(12, 7)
    features = torch.randn(5, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = head(features)
    assert output.logits.shape == (5, 7)
    assert output.embedding.shape == (5, head.num_features)
    output.logits.float().square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    if HEADS[name].traits.cosines:
        assert output.cosines.shape == (5, 7)
        assert output.cosines.dtype == output.logits.dtype == torch.float32
        assert output.weight.shape == (7, head.num_features)
        torch.testing.assert_close(output.logits, output.scale * output.cosines)
    else:
        assert output.cosines is None


def test_dropout_hides_features_from_the_last_layer_in_training():
    torch.manual_seed(0)
    head = HEADS.spec({"name": "linear", "dropout": 0.5}).build(1000, 2)
    features = torch.ones(1, 1000)
    output = head(features)
    assert output.embedding is features
    assert not torch.equal(output.logits, head(features).logits)
    torch.manual_seed(1)
    hidden = head(features).logits
    torch.manual_seed(1)
    torch.testing.assert_close(hidden, head.fc(F.dropout(features, 0.5)))
    assert torch.equal(head.eval()(features).logits, head.fc(features))
    with pytest.raises(ConfigError, match="less than 1"):
        HEADS.spec({"name": "linear", "dropout": 1})


def test_linear_is_affine():
    head = HEADS.spec("linear").build(12, 7)
    assert isinstance(head, Linear)
    features = torch.randn(5, 12)
    assert torch.equal(head(features).logits, F.linear(features, head.fc.weight, head.fc.bias))
    assert head(features).embedding is features


@pytest.mark.parametrize("autocast", [False, True])
def test_margin_gives_cosines_of_its_embedding_and_weight(autocast: bool):
    torch.manual_seed(0)
    head = HEADS.spec({"name": "margin", "dim": 16, "scale": 8}).build(12, 7)
    assert isinstance(head, Margin)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = head(torch.randn(5, 12))
    expected = F.cosine_similarity(output.embedding[:, None].double(), output.weight[None].double(), dim=2)
    torch.testing.assert_close(output.cosines.double(), expected, atol=1e-6, rtol=0)
    assert output.scale == 8
    assert head.embed.bias is None


def test_bad_settings_are_refused_on_loading():
    with pytest.raises(ConfigError, match="greater than 0"):
        HEADS.spec({"name": "margin", "scale": 0})
    with pytest.raises(ConfigError, match="did you mean dim"):
        HEADS.spec({"name": "margin", "dims": 5})


@pytest.mark.parametrize("autocast", [False, True])
def test_a_norm_standardises_features_by_the_batch_and_later_by_what_it_saw(autocast: bool):
    torch.manual_seed(0)
    head = HEADS.spec({"name": "linear", "norm": "batch"}).build(6, 3)
    features = torch.randn(400, 6) * torch.tensor([1e-3, 0.1, 1, 5, 10, 100]) + torch.arange(6)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = head(features)
    expected = (features - features.mean(0)) / features.var(0, unbiased=False).add(1e-5).sqrt()
    torch.testing.assert_close(output.embedding.float(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        output.logits.float(), head.fc(expected), atol=2e-2 if autocast else 1e-4, rtol=0
    )
    assert [name for name, _ in head.named_parameters()] == ["fc.weight", "fc.bias"]
    for _ in range(200):
        head(features)
    single = head.eval()(features[:1]).embedding
    torch.testing.assert_close(single, expected[:1], atol=0.02, rtol=0.01)


def test_without_a_norm_the_state_is_that_of_earlier_versions():
    assert [*HEADS.spec("linear").build(6, 3).state_dict()] == ["fc.weight", "fc.bias"]
