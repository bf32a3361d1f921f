"""Search for the border: the point where the frozen first part of a network ends."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from cifarlab.core.batch import Batch, Output
from cifarlab.core.device import Precision
from cifarlab.core.errors import reason_of
from cifarlab.engine.frozen.tail import BACKBONE, Border, Tail, no_images
from cifarlab.models.classifier import Classifier
from cifarlab.objectives.objective import Objective

# How many possible ends of the frozen part are tried, from the last one backwards.
TRIES = 8
# How far logits and gradients may differ, as a share of the largest: kernels may round in another order.
BORDER_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


class NoBorder(Exception):
    """Raised if a network cannot be run from the output of a frozen part; the message says why."""


def find_border(classifier: Classifier, objective: Objective, batch: Batch, precision: Precision) -> Border:
    """Find the end of a classifier's frozen first part, and test it.

    The test runs `batch` in training mode. The activations at the border must depend neither on random
    numbers nor on trained parameters. The rest of the network, run from these activations, must give the same
    logits, losses and gradients as the whole classifier.

    Raises:
        NoBorder: There is no such point. The message gives the reason.
    """
    probe = copy.deepcopy(classifier).train()
    images = probe.preprocess(precision.layout(batch.images))
    candidates = _frozen_prefix(probe, images, precision)
    reason = "the rest of the network reads more than one output of the frozen part"
    for count in range(len(candidates), max(0, len(candidates) - TRIES), -1):
        try:
            return _proven(probe, objective, batch, tuple(candidates[:count]), precision)
        except NoBorder as error:
            reason = str(error) if count == len(candidates) else reason
    raise NoBorder(reason)


@torch.no_grad()
def frozen_share(classifier: Classifier, border: Border) -> float:
    """Return the share of a forward pass's multiply-adds before the border.

    It is in [0, 1].
    """
    device, size, was_training = classifier.mean.device, classifier.image_size, classifier.training
    tail, counts = Tail(classifier, border), []
    activations = torch.zeros(1, *border.shape, device=device)
    for model, given in ((classifier, torch.zeros(1, 3, size, size, device=device)), (tail, activations)):
        with FlopCounterMode(display=False) as counter:
            model.eval()(given)
        counts.append(counter.get_total_flops())
    classifier.train(was_training)
    return 1 - counts[1] / max(1, counts[0])


def _frozen_prefix(probe: Classifier, images: Tensor, precision: Precision) -> list[str]:
    """Return the names of the frozen, deterministic modules that run first.

    They are in the order of computation. NoBorder is raised if none of them has parameters.
    """
    called: list[str] = []

    def note(name: str, _module: nn.Module, _given: object) -> None:
        called.append(name)

    hooks = [
        module.register_forward_pre_hook(partial(note, name))
        for name, module in probe.backbone.named_modules(prefix=BACKBONE)
    ]
    try:
        with torch.no_grad(), precision.autocast():
            probe.backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    found = list(_settled_first(probe, BACKBONE, called))
    if not any(True for name in found for _ in probe.get_submodule(name).parameters()):
        raise NoBorder(_first_reason(probe, called))
    return found


def _settled_first(probe: Classifier, name: str, called: list[str]) -> Iterator[str]:
    """Yield the names of a module's first fixed parts, in order.

    A part is fixed if it gives the same output for the same input in each step (see `_unsettled`). The first
    part that is not fixed ends the list.
    """
    if called.count(name) != 1:
        return
    module = probe.get_submodule(name)
    if _unsettled(module) is None:
        yield name
        return
    depth = name.count(".") + 1
    below = (other for other in called if other.startswith(f"{name}.") and other.count(".") == depth)
    for child in dict.fromkeys(below):
        yield from _settled_first(probe, child, called)
        if called.count(child) != 1 or _unsettled(probe.get_submodule(child)) is not None:
            return


def _unsettled(module: nn.Module) -> str | None:
    """Return why a module's output may vary between steps, or None."""
    if any(parameter.requires_grad for parameter in module.parameters()):
        return "is trained"
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.training:
            return "normalises by each batch (model.batch_norm_eval)"
        # torch's dropouts, timm's DropPath and DropBlock2d, torchvision's StochasticDepth.
        is_random = any(word in type(part).__name__.lower() for word in ("drop", "stochastic"))
        rates = [getattr(part, key, 0) for key in ("p", "drop_prob")]
        if is_random and part.training and any(isinstance(rate, float | int) and rate > 0 for rate in rates):
            return "drops a random part (dropout, drop_path)"
    return None


def _first_reason(probe: Classifier, called: list[str]) -> str:
    """Return why no frozen module runs first, in words."""
    leaves = [name for name in called if not any(other.startswith(f"{name}.") for other in called)]
    reasons = ((name, _unsettled(probe.get_submodule(name))) for name in leaves)
    said = (f"{name} runs before the frozen parts end, and it {why}" for name, why in reasons if why)
    return next(said, "no frozen module runs first")


def _proven(
    probe: Classifier, objective: Objective, batch: Batch, modules: tuple[str, ...], precision: Precision
) -> Border:
    """Test and return the border after `modules`.

    NoBorder is raised, with the reason, if it fails a test of `find_border`.
    """
    last = modules[-1]
    outputs: dict[str, list[Tensor]] = {name: [] for name in modules}
    images = precision.layout(batch.images)

    def keep(name: str, _module: nn.Module, _given: object, output: object) -> None:
        if not isinstance(output, Tensor) or len(output) != len(batch.labels):
            raise NoBorder(f"{name} does not give one tensor with a row for each picture")
        outputs[name].append(output)

    hooks = [probe.get_submodule(name).register_forward_hook(partial(keep, name)) for name in modules]
    try:
        whole = _pass(probe.train(), objective, batch, images, precision, seed=0)
        with torch.no_grad():
            _pass(probe, objective, batch, images, precision, seed=1)
            _pass(probe.eval(), objective, batch, images, precision, seed=0)
    finally:
        for hook in hooks:
            hook.remove()
        probe.train()
    first = outputs[last][0]
    if first.requires_grad:
        raise NoBorder(f"trained parameters affect the output of {last}")
    if not all(torch.equal(first, other) for other in outputs[last]):
        raise NoBorder(f"the output of {last} is not deterministic")
    is_last = first.ndim == 4 and first.is_contiguous(memory_format=torch.channels_last)
    shapes = tuple(tuple(outputs[name][0].shape[1:]) for name in modules)
    border = Border(modules, shapes, first.dtype, is_last)
    # Losses must not read pictures: a batch of kept activations has none.
    bare = replace(batch, images=no_images(len(batch.labels), first.device))
    try:
        tail = _pass(Tail(probe, border), objective, bare, first, precision, seed=0)
    except Exception as error:  # A network may raise anything if it begins in the middle.
        raise NoBorder(f"the network cannot be run from {last} on ({reason_of(error)})") from None
    for what, ones, others in zip(("logits", "losses", "gradients"), whole, tail, strict=True):
        if not _alike(ones, others, BORDER_TOLERANCE[precision.dtype]):
            raise NoBorder(f"from the activations of {last} on, {what} are not those of the whole network")
    return border


def _pass(
    model: Classifier | Tail,
    objective: Objective,
    batch: Batch,
    given: Tensor,
    precision: Precision,
    *,
    seed: int,
) -> tuple[list[Tensor | None], ...]:
    """Run forward and backward on `given`; return logits, losses, gradients.

    `given` is the input of `model`: pictures, or activations for a `Tail`. Buffers and the objective stay
    unchanged, and no gradients are accumulated in the parameters.
    """
    goal = copy.deepcopy(objective).train()
    buffers = {buffer: buffer.clone() for buffer in model.buffers()}
    torch.manual_seed(seed)
    with precision.autocast():
        output: Output = model(given)
        losses = goal(batch, output)
    for buffer, before in buffers.items():
        buffer.data.copy_(before)
    # The order must not depend on where the network begins.
    trained = [p for part in (model.head, model.backbone, goal) for p in part.parameters() if p.requires_grad]
    gradients: list[Tensor | None] = [None] * len(trained)
    if trained and losses["total"].requires_grad:
        gradients = [*torch.autograd.grad(losses["total"], trained, allow_unused=True)]
    return [output.logits], [*losses.values()], gradients


def _alike(ones: list[Tensor | None], others: list[Tensor | None], tolerance: float) -> bool:
    """Tell whether two lists of tensors are equal except for rounding."""
    if [one is None for one in ones] != [other is None for other in others]:
        return False
    largest = max((_size(one) for one in ones if one is not None), default=0.0)
    for one, other in zip(ones, others, strict=True):
        if one is None or other is None:
            continue
        # Written with `not <=`, so that a NaN counts as a difference.
        if one.shape != other.shape or not _size(one - other) <= tolerance * (_size(one) + 0.01 * largest):
            return False
    return True


def _size(values: Tensor) -> float:
    return values.detach().abs().max().item() if values.numel() else 0.0
