"""Losses: against torch, the papers' reference implementation and the tutorial's code; precision; errors."""

import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import (
    ArcFaceLoss,
    CosFaceLoss,
    LargeMarginSoftmaxLoss,
    SphereFaceLoss,
    SubCenterArcFaceLoss,
    SupConLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from cifarlab.config import build
from cifarlab.models.heads import Linear, Margin
from cifarlab.objectives.losses import cross_entropy
from cifarlab.objectives.margins import arcface, cosface, lsoftmax, sphereface, supcon, triplet
from cifarlab.objectives.objective import build_objective
from cifarlab.optim.optimizers import sgd
from cifarlab.records import Batch, Output
from cifarlab.registry import DATASETS, LOSSES, MIXERS, ConfigError

CLASSES, WIDTH, ROWS = 7, 12, 16
HARD_ONLY = [name for name in LOSSES if not LOSSES[name].traits.get("soft_targets", True)]
ON_COSINES = [name for name in LOSSES if LOSSES[name].traits.get("needs_cosines")]
ON_PRODUCTS = [name for name in LOSSES if LOSSES[name].traits.get("needs_products")]
# With which a margin changes nothing.
NEUTRAL = {"sphereface": 1}
TARGETS = [
    (name, kind)
    for name in LOSSES
    if not LOSSES[name].traits.get("needs_teacher")
    for kind in ("hard", "smoothed", "mixed")
    if kind == "hard" or name not in HARD_ONLY
]


def batch_of(labels: Tensor, targets: Tensor | None = None, classes: int = CLASSES) -> Batch:
    hard = F.one_hot(labels, classes).float()
    return Batch(torch.zeros(len(labels), 3, 2, 2), labels, hard if targets is None else targets, labels)


def random_batch(kind: str = "hard") -> Batch:
    labels = torch.randint(CLASSES, (ROWS,))
    hard = F.one_hot(labels, CLASSES).float()
    targets = {"hard": hard, "smoothed": 0.9 * hard + 0.1 / CLASSES, "mixed": 0.6 * hard + 0.4 * hard.flip(0)}
    return batch_of(labels, targets[kind])


def cosine_output(embedding: Tensor, weight: Tensor, scale: float = 1.0) -> Output:
    cosines = F.normalize(embedding) @ F.normalize(weight).t()
    return Output(scale * cosines, embedding, cosines=cosines, scale=scale, weight=weight)


@pytest.mark.parametrize(("name", "kind"), TARGETS)
@pytest.mark.parametrize("head", [Linear, partial(Linear, bias=False), Margin, partial(Margin, centers=2)])
@pytest.mark.parametrize("autocast", [False, True])
def test_every_loss(name: str, kind: str, head: Any, autocast: bool):
    torch.manual_seed(0)
    model = head(WIDTH, CLASSES)
    objective = build_objective({name: LOSSES.spec(name)}, CLASSES, model.num_features)
    batch = random_batch(kind)
    features = torch.randn(ROWS, WIDTH, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(features)
        if name in ON_COSINES and output.cosines is None:
            with pytest.raises(ConfigError, match=r"model\.head=margin"):
                objective(batch, output)
            return
        if name in ON_PRODUCTS and output.weight is None:
            with pytest.raises(ConfigError, match="bias: false"):
                objective(batch, output)
            return
        if name in ON_PRODUCTS and output.cosines is not None:
            return  # Refused when the recipe loads.
        loss = objective(batch, output)["total"]
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    assert loss.isfinite()
    loss.backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert features.grad.abs().sum() > 0
    again = build_objective({name: LOSSES.spec(name)}, CLASSES, model.num_features)(batch, model(features))[
        "total"
    ]
    if not autocast:
        assert torch.equal(loss, again)


@pytest.mark.parametrize("name", HARD_ONLY)
def test_a_loss_on_hard_labels_is_refused_beside_mixing(monkeypatch: pytest.MonkeyPatch, name: str):
    for registry in (DATASETS, MIXERS):
        monkeypatch.setattr(registry, "_parts", {})
        registry.register(lambda *given: given, name="some")
    recipe = {
        "data": {"dataset": "some", "mix": {"some": {}}},
        "model": {"backbone": "test_resnet", "head": "margin"},
        "objective": {"label": {"name": name}},
        "optim": {"name": sgd.__name__, "schedule": {"name": "constant"}},
        "train": {},
    }
    with pytest.raises(ConfigError, match="no form for mixed targets") as caught:
        build(recipe)
    assert caught.value.path == ("objective", "label")


@pytest.mark.parametrize(
    ("name", "head"),
    [*((name, "linear") for name in ON_COSINES + ON_PRODUCTS), *((name, "margin") for name in ON_PRODUCTS)],
)
def test_a_loss_is_refused_beside_a_head_without_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, name: str, head: str
):
    monkeypatch.setattr(DATASETS, "_parts", {})
    DATASETS.register(lambda *given: given, name="some")
    recipe = {
        "data": {"dataset": "some"},
        "model": {"backbone": "test_resnet", "head": head},
        "objective": {"label": {"name": name}},
        "optim": {"name": sgd.__name__, "schedule": {"name": "constant"}},
        "train": {},
    }
    needed = {"name": "linear", "bias": False} if name in ON_PRODUCTS else "margin"
    with pytest.raises(ConfigError, match=r"say model\.head=") as caught:
        build(recipe)
    assert caught.value.path == ("objective", "label")
    build({**recipe, "model": {"backbone": "test_resnet", "head": needed}})


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_is_torchs_with_hard_labels(smoothing: float):
    torch.manual_seed(0)
    batch, logits = random_batch(), 3 * torch.randn(ROWS, CLASSES)
    expected = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(batch, Output(logits, logits), smoothing=smoothing), expected)


def test_smoothing_spreads_a_share_over_all_classes():
    torch.manual_seed(0)
    batch, logits = random_batch("mixed"), torch.randn(ROWS, CLASSES)
    spread = 0.8 * batch.targets + 0.2 / CLASSES
    expected = -(spread * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(batch, Output(logits, logits), smoothing=0.2), expected)


def value_and_gradients(loss: Tensor, embedding: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    return loss, *torch.autograd.grad(loss, [embedding, weight])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1.0, 8.0, 64.0]), margin=st.floats(0.05, 1.2))
def test_margins_are_those_of_pytorch_metric_learning(seed: int, scale: float, margin: float):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(ROWS, 3, generator=generator, requires_grad=True)  # 3-D: angles from 0 to pi
    weight = torch.randn(CLASSES, 3, generator=generator, requires_grad=True)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    batch = batch_of(labels)
    reference_arcface: Any = ArcFaceLoss  # typed as if scales were integers
    reference_cosface: Any = CosFaceLoss
    for ours, theirs in (
        (arcface, reference_arcface(CLASSES, 3, margin=math.degrees(margin), scale=scale)),
        (cosface, reference_cosface(CLASSES, 3, margin=margin, scale=scale)),
    ):
        theirs.W = torch.nn.Parameter(weight.detach().t().clone())
        loss = ours(batch, cosine_output(embedding, weight, scale), margin=margin)
        reference = theirs(embedding, labels)
        expected = (reference, *torch.autograd.grad(reference, [embedding, theirs.W]))
        for got, want in zip(
            value_and_gradients(loss, embedding, weight), (*expected[:2], expected[2].t()), strict=True
        ):
            torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-4 * max(1.0, want.abs().max().item()))


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # of the library, with NumPy 2
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), margin=st.integers(1, 5))
def test_multiplied_angles_are_those_of_pytorch_metric_learning(seed: int, margin: int):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(ROWS, 3, generator=generator, requires_grad=True)
    weight = torch.randn(CLASSES, 3, generator=generator, requires_grad=True)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    batch = batch_of(labels)
    product = embedding @ weight.t()
    for ours, theirs, output in (
        (sphereface, SphereFaceLoss(CLASSES, 3, margin=margin), cosine_output(embedding, weight, 64.0)),
        (
            lsoftmax,
            LargeMarginSoftmaxLoss(CLASSES, 3, margin=margin),
            Output(product, embedding, weight=weight),
        ),
    ):
        theirs.W = torch.nn.Parameter(weight.detach().t().clone())
        loss = ours(batch, output, margin=margin, softness=0)
        reference = theirs(embedding, labels)
        expected = (reference, *torch.autograd.grad(reference, [embedding, theirs.W]))
        for got, want in zip(
            value_and_gradients(loss, embedding, weight), (*expected[:2], expected[2].t()), strict=True
        ):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3 * max(1.0, want.abs().max().item()))


def test_a_multiplied_angle_is_eased_in():
    """The papers' lambda: 1,000 parts of the plain cosine at first, `softness` parts in the end."""
    torch.manual_seed(0)
    output, batch = cosine_output(torch.randn(ROWS, 3), torch.randn(CLASSES, 3)), random_batch()
    plain, whole = (sphereface(batch, output, margin=m, softness=0) for m in (1, 4))
    losses = [sphereface(replace(batch, progress=p), output) for p in (0, 0.1, 0.2, 0.3, 1)]
    assert plain < losses[0] < losses[1] < losses[2] < losses[3] == losses[4] < whole
    target = output.cosines.gather(1, batch.labels[:, None])
    theta = target.acos()
    turns = (4 * theta / math.pi).floor()
    psi = (-1) ** turns * (4 * theta).cos() - 2 * turns
    logits = output.cosines.scatter(1, batch.labels[:, None], (psi + 5 * target) / 6)
    expected = F.cross_entropy(logits * output.embedding.norm(dim=1, keepdim=True), batch.labels)
    torch.testing.assert_close(losses[4], expected, rtol=1e-5, atol=1e-5)


def test_several_centers_are_those_of_pytorch_metric_learning():
    torch.manual_seed(0)
    head = Margin(WIDTH, CLASSES, dim=5, scale=16.0, centers=3)
    theirs: Any = SubCenterArcFaceLoss
    theirs = theirs(num_classes=CLASSES, embedding_size=5, margin=math.degrees(0.5), scale=16, sub_centers=3)
    theirs.W = torch.nn.Parameter(head.weight.detach().t().clone())
    batch = random_batch()
    output = head(torch.randn(ROWS, WIDTH))
    loss, expected = arcface(batch, output), theirs(output.embedding, batch.labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    (gradient,), (wanted,) = torch.autograd.grad(loss, head.weight), torch.autograd.grad(expected, theirs.W)
    torch.testing.assert_close(gradient, wanted.t(), rtol=1e-3, atol=1e-3 * wanted.abs().max().item())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 12), margin=st.floats(0.05, 1.0))
def test_triplets_are_those_of_pytorch_metric_learning(seed: int, classes: int, margin: float):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(ROWS, 4, generator=generator, requires_grad=True)
    labels = torch.randint(classes, (ROWS,), generator=generator)
    distance: Any = LpDistance(normalize_embeddings=True)
    reference = TripletMarginLoss(margin=margin, distance=distance, reducer=MeanReducer())
    triplets = BatchHardMiner(distance=distance)(embedding, labels)
    loss = triplet(batch_of(labels, classes=classes), Output(embedding, embedding), margin=margin)
    expected = reference(embedding, labels, triplets)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    if len(triplets[0]):
        (gradient,), (wanted,) = (
            torch.autograd.grad(loss, embedding),
            torch.autograd.grad(expected, embedding),
        )
        torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 12), temperature=st.floats(0.05, 1.0))
def test_supcon_is_that_of_pytorch_metric_learning(seed: int, classes: int, temperature: float):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(ROWS, 4, generator=generator, requires_grad=True)
    labels = torch.randint(classes, (ROWS,), generator=generator)
    loss = supcon(batch_of(labels, classes=classes), Output(embedding, embedding), temperature=temperature)
    expected = SupConLoss(temperature=temperature)(embedding, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    (gradient,), (wanted,) = torch.autograd.grad(loss, embedding), torch.autograd.grad(expected, embedding)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", [triplet, supcon])
@pytest.mark.parametrize("labels", [torch.arange(4), torch.zeros(4, dtype=torch.int64)])
def test_a_batch_without_pairs_teaches_nothing_and_stays_finite(loss: Any, labels: Tensor):
    embedding = torch.randn(4, 3, requires_grad=True)
    value = loss(batch_of(labels), Output(embedding, embedding))
    value.backward()
    assert embedding.grad.isfinite().all()
    if loss is triplet or len(labels.unique()) == 4:
        assert value == 0


def tutorials_arcface(cosines: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """The tutorial's form: angles, margin and cosine in place, where autograd does not look."""
    rows = torch.arange(len(labels))
    target = cosines[rows, labels]
    with torch.no_grad():
        target.arccos_()
        cosines.arccos_()
        cosines[rows, labels] = target + margin
        cosines.cos_()
    return cosines * scale


@pytest.mark.parametrize(("scale", "margin"), [(64.0, 0.5), (8.0, 0.35), (8.0, 1.5)])
def test_straight_through_is_the_tutorials_code(scale: float, margin: float):
    torch.manual_seed(0)
    batch = random_batch()
    cosines = torch.empty(ROWS, CLASSES).uniform_(-0.999, 0.999)
    ours, theirs = cosines.clone().requires_grad_(), cosines.clone().requires_grad_()
    output = Output(scale * ours, ours, cosines=ours, scale=scale)
    loss = arcface(batch, output, margin=margin, gradient="straight_through")
    expected = F.cross_entropy(tutorials_arcface(theirs * 1.0, batch.labels, scale, margin), batch.labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    (gradient,), (wanted,) = torch.autograd.grad(loss, ours), torch.autograd.grad(expected, theirs)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_the_two_gradients_share_a_value_and_differ():
    torch.manual_seed(0)
    batch, cosines = random_batch(), torch.empty(ROWS, CLASSES).uniform_(-0.5, 0.9).requires_grad_()
    output = Output(8 * cosines, cosines, cosines=cosines, scale=8.0)
    exact, straight = (arcface(batch, output, gradient=g) for g in ("exact", "straight_through"))
    torch.testing.assert_close(exact, straight)
    gradients = [torch.autograd.grad(loss, cosines)[0] for loss in (exact, straight)]
    assert not torch.allclose(gradients[0], gradients[1])


def test_a_larger_angle_never_costs_less():
    theta = torch.linspace(0, math.pi, 1000)
    cosines = torch.stack([theta.cos(), torch.zeros(1000)], 1)
    labels = torch.zeros(1000, dtype=torch.int64)
    losses = [
        arcface(batch_of(labels[:1], classes=2), Output(row[None], row[None], cosines=row[None])).item()
        for row in cosines
    ]
    assert all(low <= high + 1e-6 for low, high in pairwise(losses))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "options",
    [
        {"name": "arcface"},
        {"name": "arcface", "gradient": "straight_through"},
        {"name": "cosface"},
        {"name": "sphereface"},
        {"name": "sphereface", "softness": 0},
        {"name": "triplet"},
        {"name": "supcon"},
    ],
)
def test_aligned_vectors_stay_finite(options: dict, sign: int, autocast: bool):
    torch.manual_seed(0)
    rows = 512
    weight = torch.randn(64, 64)
    labels = torch.randint(64, (rows,))
    embedding = (sign * weight[labels] * torch.rand(rows, 1)).requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        with torch.autocast("cpu", enabled=False):
            output = cosine_output(embedding, weight, 64.0)
        assert output.cosines is not None
        assert output.cosines.abs().max() > 1  # what acos would answer with NaN
        loss = LOSSES.spec(options).build(batch_of(labels, classes=64), output)
    assert loss.dtype == torch.float32
    gradients = torch.autograd.grad(loss, [embedding, weight], allow_unused=True)
    for value in (loss, *(gradient for gradient in gradients if gradient is not None)):
        assert value.isfinite().all()


@pytest.mark.parametrize("name", ON_COSINES)
def test_the_outputs_cosines_stay_as_they_are(name: str):
    torch.manual_seed(0)
    output = cosine_output(torch.randn(ROWS, WIDTH), torch.randn(CLASSES, WIDTH), 64.0)
    assert output.cosines is not None
    before, logits = output.cosines.clone(), output.logits.clone()
    batch = replace(random_batch(), progress=1.0)
    with_margin = LOSSES.spec(name).build(batch, output)
    assert torch.equal(output.cosines, before)
    assert torch.equal(output.logits, logits)
    without = LOSSES.spec({"name": name, "margin": NEUTRAL.get(name, 0)}).build(batch, output)
    assert with_margin > without


def test_bad_settings_are_refused_on_loading():
    for options in ({"smoothing": 1.0}, {"smoothing": -0.1}):
        with pytest.raises(ConfigError) as caught:
            LOSSES.spec({"name": "cross_entropy", **options})
        assert caught.value.path == ("smoothing",)
    with pytest.raises(ConfigError, match="straight_through"):
        LOSSES.spec({"name": "arcface", "gradient": "straight"})
