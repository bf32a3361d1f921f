"""Checks that need data, a model and one small batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cifarlab.augment.policies import apply
from cifarlab.core.random import Draws
from cifarlab.data.splits import Split, digest_pictures
from cifarlab.doctor.check_registry import Reasons, check
from cifarlab.doctor.probe import Probe
from cifarlab.engine.batches import num_views
from cifarlab.training.no_effect import without_effect_on

# With fewer pictures, batch norm's statistics are mostly noise (Wu and He 2018, figure 1).
_TINY = 8
# Allowed deviation of the first loss, as a share of log(classes): a new head's logits deviate by about 1.
_FAR = 0.5
# Pixels in [0, 1] that differ by at most this are equal: it is less than half a step of 8 bits.
_UNCHANGED = 1 / 512


@check("batch", "warning", "set model.backbone.stem=cifar, or a larger data.image_size")
def last_map_1x1(probe: Probe) -> Reasons:
    """Check that the last convolution's output is larger than one pixel."""
    size = min(probe.config.data.image_size, *probe.config.data.train_sizes)
    name, side = _last_map(probe.model, size)
    if side == 1:
        yield f"at {size} px the feature map is only 1 x 1 at {name}: all spatial information is lost"


def _last_map(model: nn.Module, size: int) -> tuple[str, int]:
    """Return the last convolution with a kernel larger than 1 x 1.

    The result is (name, larger side of the output in pixels).
    """
    seen = [("", 0)]

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda _module, _given, output: seen.append((name, max(output.shape[-2:])))

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    ]
    parameter = next(model.parameters())
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, device=parameter.device), size)
    model.train()
    for hook in hooks:
        hook.remove()
    return seen[-1]


@check("batch", "warning", "raise data.batch_size, or set model.batch_norm_eval=backbone")
def tiny_batch_norm(probe: Probe) -> Reasons:
    """Check that batch norm gets at least 8 pictures at once."""
    if not any(isinstance(module, _BatchNorm) and module.training for module in probe.model.modules()):
        return
    data, plan = probe.config.data, probe.case.plan
    scale = data.multi_scale
    parts = len(scale.sizes) if scale is not None and scale.per == "sample" else 1
    if data.batch_size // parts < _TINY:
        at_once = f", {data.batch_size // parts} at each size" if parts > 1 else ""
        yield f"batch norm sees only data.batch_size={data.batch_size} pictures at once{at_once}"
    elif plan is not None and 1 < plan.samples % plan.batch_size < _TINY:
        rest = plan.samples % plan.batch_size
        yield (
            f"batch norm sees only {rest} pictures in the last batch of each epoch",
            (f"choose a data.batch_size that does not leave {rest} of {plan.samples:,} pictures"),
        )


@check("batch", "warning", "raise the augmentation's strength or p, or remove it")
def same_views(probe: Probe) -> Reasons:
    """Check that augmentation makes pictures differ between two epochs."""
    data = probe.config.data
    if not (data.augment or data.mix) or num_views(probe.config) == 1:
        return
    one, other = probe.views(0).images, probe.views(1).images
    if not _changed(one, other).any():
        yield f"{len(one)} pictures look the same in epochs 1 and 2, despite data.augment and data.mix"


@check("batch", "warning", "raise its strength, or remove it")
def augmentation_idle(probe: Probe) -> Reasons:
    """Check that each augmentation changes at least one picture."""
    clean = probe.views(0)
    images = probe.job.splits.train.gather(torch.arange(len(clean.labels)))[0].float() / 255
    for label, spec in probe.config.data.augment.items():
        draws = Draws(probe.config.train.seed, 0, clean.ids).at("augment")
        if spec.p and not _changed(images, apply(images, draws, {label: replace(spec, p=1.0)})).any():
            yield f"data.augment.{label} changes none of {len(images)} pictures"


def _changed(one: Tensor, other: Tensor) -> Tensor:
    """Return which pictures differ by more than rounding errors, (B,) bool."""
    return (one - other).abs().flatten(1).amax(1) > _UNCHANGED


@check("batch", "warning", "remove the setting, or change the one that disables it", told=True)
def no_effect_on_model(probe: Probe) -> Reasons:
    """Check that each setting has an effect with this model and data."""
    yield from without_effect_on(probe.config, probe.model)


@check("batch", "warning", "check the head's initial weights and model.normalize")
def initial_loss(probe: Probe) -> Reasons:
    """Check that the cross-entropy before training is near log(number of classes)."""
    output, batch = probe.first.output, probe.first.batch
    guess = math.log(probe.model.num_classes)
    # Cosines x 64 are far from guessing by design. Weights of a model.init may already know the classes.
    if output.cosines is not None or probe.config.model.init:
        return
    loss = F.cross_entropy(output.logits.float(), batch.targets).item()
    if math.isfinite(loss) and abs(loss - guess) > _FAR * guess:
        yield f"the cross-entropy before training is {loss:.2f}; random guessing gives {guess:.2f}"


@check("batch", "error", "try train.precision=float32; if that fails, check the block and the loss")
def gradient_not_finite(probe: Probe) -> Reasons:
    """Check that the first loss and its gradient are finite."""
    if not math.isfinite(probe.first.loss):
        yield f"the first loss is {probe.first.loss}"
        return
    broken = [name for name, norm in _norms_of_blocks(probe) if not math.isfinite(norm)]
    if broken:
        yield f"the first gradient is not finite in {', '.join(broken[:3])}"


@check("batch", "error", "use a loss that depends on the block, or freeze it by name (model.freeze)")
def gradient_zero(probe: Probe) -> Reasons:
    """Check that each block of trainable weights has a nonzero gradient."""
    still = [name for name, norm in _norms_of_blocks(probe) if norm == 0]
    if still and any(probe.objective.weights.values()):
        more = f" and {len(still) - 3} more" if len(still) > 3 else ""
        yield f"the first gradient is zero in {', '.join(still[:3])}{more}"


def _norms_of_blocks(probe: Probe) -> Iterator[tuple[str, float]]:
    """Return (name, gradient norm) for each block of the model.

    A block holds the parameters of all modules whose dotted names agree in the first three components.
    """
    # Not by layer: if the last scale of a residual block starts at 0, its other layers get no gradient yet.
    blocks: dict[str, list[float]] = {}
    for name, gradient in zip(probe.first.names, probe.first.gradients, strict=True):
        block = ".".join(name.split(".")[:-1][:3]) or name
        blocks.setdefault(block, []).append(0.0 if gradient is None else gradient.float().norm().item())
    return ((name, math.hypot(*norms)) for name, norms in blocks.items())


@check("batch", "warning", "get the published data, or do not compare with published figures", told=True)
def data_altered(probe: Probe) -> Reasons:
    """Check that the data set is the published one."""
    if probe.data_at_hand:
        yield from probe.job.splits.warnings


@check("batch", "warning", "remove them from one of the two folders (`data.root`)")
def validation_in_train(probe: Probe) -> Reasons:
    """Check that no validation picture is also a training picture."""
    splits = probe.job.splits
    # A drawn validation split takes all copies of a picture. Only a published `val` part can overlap.
    if probe.data_at_hand and splits.val is not None and "val" in splits.fingerprint:
        found = int(np.isin(_digests(splits.val), _digests(splits.train)).sum())
        if found:
            yield f"{found} of {len(splits.val)} validation pictures are also in train"


def _digests(split: Split) -> np.ndarray:
    return digest_pictures(split.images[split.rows].cpu().numpy())
