"""The network of the speed recipes: its shapes, its initial state, its whitening, and runs with it."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab import load
from cifarlab.config import ModelConfig
from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import BACKBONES
from cifarlab.models.blocks.whitening import EPSILON, Whitening, patch_statistics
from cifarlab.models.cifar.speed_resnets import ShiftNorm, SpeedResNet
from cifarlab.models.classifier import build_classifier
from cifarlab.models.layers import hidden_matrices, layer_depths
from cifarlab.training.setup import prepare, some_pictures
from tests.tiny import tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

SMALL = "model.backbone={name: speed_resnet, widths: [8, 8, 16]}"
FORMS: dict[str, dict[str, Any]] = {
    "lean": {},
    "full": {"layout": "full", "activation": "relu"},
    "conv": {"stem": "conv", "activation": "gelu", "dirac": False},
}


def built(size: int = 32, **options: Any) -> SpeedResNet:
    torch.manual_seed(0)
    return BACKBONES.spec({"name": "speed_resnet", **options}).build(size)


def count_macs(backbone: SpeedResNet) -> int:
    """Multiply-adds of its convolutions for one picture of 32 px."""
    found = []

    def add(conv: nn.Conv2d, given: tuple[Tensor], output: Tensor) -> None:
        found.append(output.shape[-1] ** 2 * conv.weight.numel())

    for part in backbone.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(add)  # pyright: ignore[reportArgumentType]
    backbone.eval()(torch.zeros(1, 3, 32, 32))
    return sum(found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [16, 20, 24, 32, 48])
def test_shapes_of_the_sizes_it_is_made_for(form: str, size: int):
    with torch.device("meta"):
        backbone = built(size, **FORMS[form])
    maps: list[Tensor] = []
    for stage in backbone.stages:
        stage.register_forward_hook(lambda _, __, output: maps.append(output))
    assert backbone(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 512)
    side = size - (form != "conv")
    assert [m.shape for m in maps] == [
        (2, width, side // cut, side // cut) for width, cut in zip((64, 256, 512), (2, 4, 8), strict=True)
    ]


def test_multiply_adds_as_published():
    """AIDDA's CIFAR-100 speedrun, NAVIER-STOKED: 175 million; less the 0.3 of the whitening, counted here."""
    assert count_macs(built(widths=[64, 256, 768])) == pytest.approx(175e6, rel=5e-3)


def test_a_picture_too_small_for_the_last_map():
    for stem, least in (("whitening", 9), ("conv", 8)):
        assert built(least, stem=stem).eval()(torch.zeros(1, 3, least, least)).shape == (1, 512)
        with pytest.raises(ConfigError, match=f"takes pictures of {least} px or more, not of {least - 1}"):
            built(least - 1, stem=stem)


def test_gradients_and_what_trains():
    backbone = built(widths=[8, 16, 32])
    backbone(torch.randn(4, 3, 32, 32)).square().mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    norms = [part for part in backbone.modules() if isinstance(part, ShiftNorm)]
    assert len(norms) == 9
    assert [[name for name, _ in norm.named_parameters()] for norm in norms] == [["bias"]] * 9
    maps, plain = torch.randn(4, 8, 5, 5), nn.BatchNorm2d(8)
    torch.testing.assert_close(norms[0](maps), plain(maps))


def test_dirac_convolutions_begin_as_the_identity():
    for backbone in (built(widths=[8, 16, 32]), built(widths=[8, 16, 32], layout="full")):
        for stage in backbone.stages:
            for conv in (part for part in stage.modules() if isinstance(part, nn.Conv2d)):
                maps = torch.randn(2, conv.in_channels, 6, 6)
                # The 2x2 kernel's maps get a row and a column of zeros in front of them.
                before = F.pad(maps, (1, 0, 1, 0)) if conv.kernel_size == (2, 2) else maps
                same = min(conv.in_channels, conv.out_channels)
                torch.testing.assert_close(conv(before)[:, :same], maps[:, :same])
    plain = built(widths=[8, 16, 32], dirac=False)
    assert not any(
        torch.equal(new, old)
        for (name, new), old in zip(
            plain.stages.named_parameters(), built(widths=[8, 16, 32]).stages.parameters(), strict=True
        )
        if new.ndim == 4
    )


def test_layers_and_matrices():
    backbone = built()
    depths = layer_depths(backbone)
    assert depths["stem.0.bias"] == max(depths.values()) == 7
    assert min(depths.values()) == 1
    # All but the first, which the whitening is; in Muon's words the first is no hidden matrix.
    convs = [name for name, parameter in backbone.named_parameters() if parameter.ndim == 4]
    assert hidden_matrices(backbone) == convs
    assert len(convs) == 9
    with_conv = built(stem="conv")
    convs = [name for name, parameter in with_conv.named_parameters() if parameter.ndim == 4]
    assert hidden_matrices(with_conv) == convs[1:]


# Whitening


def smooth(count: int = 40, size: int = 16) -> Tensor:
    """Pictures whose neighbouring pixels and channels are alike, about a mean that is not 0."""
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return 0.3 + F.avg_pool2d(noise + noise.mean(1, keepdim=True), 3, 1, 1)


def test_patch_statistics_are_numpys():
    import numpy as np

    images = smooth(7, 9)
    patches = [
        images[n, :, y : y + 2, x : x + 2].flatten().numpy()
        for n in range(7)
        for y in range(8)
        for x in range(8)
    ]
    mean, covariance = patch_statistics(images)
    np.testing.assert_allclose(mean, np.mean(patches, 0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(np.transpose(patches), bias=True), atol=1e-6)


def test_whitened_patches_have_mean_0_and_covariance_1():
    images, layer = smooth(), Whitening()
    assert not torch.allclose(torch.cov(layer(images)[:, :12].transpose(0, 1).flatten(1)), torch.eye(12))
    layer.fit(images)
    output = layer(images)
    assert torch.equal(output[:, 12:], -output[:, :12])
    values = output[:, :12].transpose(0, 1).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(12), rtol=0, atol=1e-5)
    found = torch.cov(values, correction=0)
    # What epsilon takes off the least variance.
    least = torch.linalg.eigvalsh(patch_statistics(images)[1])[0].item()
    torch.testing.assert_close(found, torch.eye(12), rtol=0, atol=2 * EPSILON / least)


def test_whitening_does_not_depend_on_the_sign_of_a_direction(monkeypatch: pytest.MonkeyPatch):
    one, other = Whitening(), Whitening()
    one.fit(smooth())
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: (eigh(matrix)[0], -eigh(matrix)[1]))
    other.fit(smooth())
    assert torch.equal(one.weight, other.weight)


def test_its_weights_are_saved_and_not_trained():
    layer = Whitening()
    layer.fit(smooth())
    assert [*layer.state_dict()] == ["bias", "weight"]
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_a_job_begins_with_its_training_pictures_and_resumes_without():
    job = prepare(tiny_config(SMALL, "model.normalize=dataset"))
    model, own = job.engine.model, Whitening()
    own.fit(model.preprocess(some_pictures(job.splits.train)))
    whitening: Any = model.backbone.stem[0]  # pyright: ignore[reportIndexIssue]
    assert torch.equal(whitening.weight, own.weight)
    assert torch.equal(whitening.bias.data, own.bias.data)
    again: Any = prepare(tiny_config(SMALL), initial=False).engine.model.backbone
    assert torch.equal(again.stem[0].weight, Whitening().weight)


def test_some_pictures_are_from_all_over_the_split():
    split = prepare(tiny_config(SMALL)).splits.train
    assert torch.equal(some_pictures(split), split.gather(torch.arange(len(split)))[0])
    assert torch.equal(some_pictures(split, count=70), split.gather(torch.arange(0, 200, 3))[0])


def test_a_run_resumes_exactly_and_is_loaded_without_its_data(tmp_path, stop_at):
    given = (SMALL, "train.average=ema", "data.multi_scale={sizes: [16, 32], per: stage, shares: [0.3, 0.7]}")
    whole, _ = train_tiny(tmp_path / "whole", *given)
    with stop_at(5):
        train_tiny(tmp_path / "halved", *given)
    halved, _ = train_tiny(tmp_path / "halved", *given)
    assert_same_run(whole, halved)
    kept = checkpoints.load_checkpoint(whole.best_path, ("model",))["model"]["backbone.stem.0.weight"]
    model: Any = load(whole.folder)
    assert torch.equal(model.backbone.stem[0].weight, kept)
    assert not torch.equal(kept, Whitening().weight)


def test_another_runs_whitening_is_taken_over(tmp_path):
    first, _ = train_tiny(tmp_path / "first", SMALL)
    kept = checkpoints.load_checkpoint(first.best_path, ("model",))["model"]
    job = prepare(tiny_config(SMALL, f"model.init={first.folder}", "data.dataset.seed=1"))
    backbone: Any = job.engine.model.backbone
    assert torch.equal(backbone.stem[0].weight, kept["backbone.stem.0.weight"])


def test_a_head_scales_its_logits():
    def classifier(scale: float) -> Any:
        torch.manual_seed(0)
        head = {"name": "linear", "bias": False, "scale": scale}
        config = ModelConfig.model_validate({"backbone": "resnet8x4", "head": head})
        return build_classifier(config, 32, 10).eval()

    images = torch.rand(3, 3, 32, 32)
    one, less = classifier(1.0)(images), classifier(0.125)(images)
    torch.testing.assert_close(less.logits, one.logits / 8)
    torch.testing.assert_close(less.logits, less.embedding @ less.weight.t())
    assert torch.equal(less.embedding, one.embedding)
