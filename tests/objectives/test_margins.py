"""Margins: against pytorch-metric-learning and the tutorial's code; precision, warnings, exact resume."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
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
from scipy.optimize import brentq
from scipy.special import softmax
from torch import Tensor

from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import LOSSES
from cifarlab.doctor import CHECKS
from cifarlab.doctor.plan_facts import planned
from cifarlab.models.heads import Margin
from cifarlab.objectives.classification import arcface, cosface, least_scale, lsoftmax, sphereface
from cifarlab.objectives.metric_learning import supcon, triplet
from cifarlab.runs.folder import Run
from cifarlab.training.loop import train_run
from cifarlab.training.setup import prepare
from tests.batches import CLASSES, ROWS, WIDTH, batch_of, cosine_output, product_output, random_batch
from tests.settings import row
from tests.tiny import TINY, logged, tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

ON_COSINES = [name for name in LOSSES if LOSSES[name].traits.needs_cosines]
# With which a margin changes nothing.
NEUTRAL = {"sphereface": 1}


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


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    margin=st.floats(0.05, 1.2),
    warmup=st.floats(0.01, 1),
    progress=st.floats(0.01, 1),
    on_device=st.booleans(),
)
def test_a_margin_grows_to_those_of_pytorch_metric_learning(
    seed: int, margin: float, warmup: float, progress: float, on_device: bool
):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(ROWS, 3, generator=generator, requires_grad=True)
    weight = torch.randn(CLASSES, 3, generator=generator, requires_grad=True)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    # On a GPU the engine's progress is a tensor.
    now = torch.tensor(progress, dtype=torch.float64) if on_device else progress
    batch, grown = replace(batch_of(labels), progress=now), margin * min(1, progress / warmup)
    reference_arcface: Any = ArcFaceLoss  # typed as if scales were integers
    reference_cosface: Any = CosFaceLoss
    for ours, theirs in (
        (arcface, reference_arcface(CLASSES, 3, margin=math.degrees(grown), scale=8.0)),
        (cosface, reference_cosface(CLASSES, 3, margin=grown, scale=8.0)),
    ):
        theirs.W = torch.nn.Parameter(weight.detach().t().clone())
        loss = ours(batch, cosine_output(embedding, weight, 8.0), margin=margin, warmup=warmup)
        reference = theirs(embedding, labels)
        expected = (reference, *torch.autograd.grad(reference, [embedding, theirs.W]))
        for got, want in zip(
            value_and_gradients(loss, embedding, weight), (*expected[:2], expected[2].t()), strict=True
        ):
            torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-4 * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_a_margin_that_grows_is_none_at_the_start_and_whole_after(gradient: Any, warmup: float):
    torch.manual_seed(0)
    batch, output = random_batch(), cosine_output(torch.randn(ROWS, 3), torch.randn(CLASSES, 3), 8.0)

    def loss(progress: float) -> Tensor:
        return arcface(replace(batch, progress=progress), output, gradient=gradient, warmup=warmup)

    plain = F.cross_entropy(output.logits, batch.labels)
    whole = arcface(batch, output, gradient=gradient)
    torch.testing.assert_close(loss(0), plain if warmup else whole)
    torch.testing.assert_close(loss(0.75), whole)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1.0, 16.0, 64.0]), margin=st.floats(0.05, 1.2))
def test_only_the_exact_gradient_of_an_angle_has_a_push_that_all_classes_share(
    seed: int, scale: float, margin: float
):
    """The gradients by all cosines of a picture sum to 0, unless the pull is not as strong as the push."""
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.empty(ROWS, CLASSES, dtype=torch.float64).uniform_(-0.8, 0.8, generator=generator)
    cosines.requires_grad_()
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    output = Output(scale * cosines, cosines, cosines=cosines, scale=scale)
    batch, rows = batch_of(labels), np.arange(ROWS)

    def shared(loss: Tensor) -> np.ndarray:
        return ROWS * torch.autograd.grad(loss, cosines)[0].sum(1).numpy()

    straight = shared(arcface(batch, output, margin=margin, gradient="straight_through"))
    np.testing.assert_allclose(straight, 0, atol=1e-4 * scale)
    np.testing.assert_allclose(shared(cosface(batch, output, margin=margin)), 0, atol=1e-4 * scale)
    theta = np.arccos(cosines.detach().numpy()[rows, labels])
    logits = scale * cosines.detach().numpy()
    beyond = theta > math.pi - margin
    shifted = np.where(beyond, np.cos(theta) - margin * math.sin(margin), np.cos(theta + margin))
    logits[rows, labels] = scale * shifted
    pull = scale * (1 - softmax(logits, axis=1)[rows, labels])
    ratio = np.where(beyond, 1, np.sin(theta + margin) / np.sin(theta))
    expected = pull * (1 - ratio)
    np.testing.assert_allclose(shared(arcface(batch, output, margin=margin)), expected, atol=1e-3 * scale)


def learned(recipe: str) -> tuple[float, float]:
    """Train a recipe's head and loss on features that are hard to tell apart, as the first epochs are.

    Returns the mean cosine between the directions of two classes, and the share of right answers.
    """
    torch.manual_seed(0)
    config = resolve(read_recipe(recipe), [])
    classes, width, steps = 100, 64, 300
    centers, head = torch.randn(classes, width), config.model.head.build(width, classes)
    ((_, loss),) = config.objective.items()
    body = torch.nn.Sequential(
        torch.nn.Linear(width, 128), torch.nn.ReLU(), torch.nn.Linear(128, width), torch.nn.ReLU()
    )
    optimizer = torch.optim.AdamW([*body.parameters(), *head.parameters()], lr=5e-3)
    right = 0.0
    for step in range(steps):
        labels = torch.randint(classes, (128,))
        output = head(body(centers[labels] + 3 * torch.randn(128, width)))
        optimizer.zero_grad()
        loss.build(replace(batch_of(labels, classes=classes), progress=step / steps), output).backward()
        optimizer.step()
        right = (output.logits.argmax(1) == labels).float().mean().item()
    mean = F.normalize(head.weight.detach()).mean(0)
    return ((classes * mean.square().sum() - 1) / (classes - 1)).item(), right


@pytest.mark.parametrize(
    "recipe", ["resnet18_pretrained_arcface", "resnet50_pretrained_arcface_224x224", "transfer/arcface"]
)
def test_the_classes_of_the_margin_recipes_stay_apart(recipe: str):
    """At s = 64 with the exact gradient all classes took one direction: a mean cosine of 0.9."""
    together, right = learned(recipe)
    assert together < 0.1
    assert right > 0.25


@pytest.mark.filterwarnings("ignore:__array_wrap__")  # of the library, with NumPy 2
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), margin=st.integers(1, 5))
def test_multiplied_angles_are_those_of_pytorch_metric_learning(seed: int, margin: int):
    generator = torch.Generator().manual_seed(seed)
    embedding = torch.randn(ROWS, 3, generator=generator, requires_grad=True)
    weight = torch.randn(CLASSES, 3, generator=generator, requires_grad=True)
    labels = torch.randint(CLASSES, (ROWS,), generator=generator)
    batch = batch_of(labels)
    for ours, theirs, output in (
        (sphereface, SphereFaceLoss(CLASSES, 3, margin=margin), cosine_output(embedding, weight, 64.0)),
        (
            lsoftmax,
            LargeMarginSoftmaxLoss(CLASSES, 3, margin=margin),
            product_output(embedding, weight),
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
@pytest.mark.parametrize("labels", [torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.arange(1)])
def test_a_batch_without_pairs_teaches_nothing_and_stays_finite(loss: Any, labels: Tensor):
    embedding = torch.randn(len(labels), 3, requires_grad=True)
    value = loss(batch_of(labels), Output(embedding, embedding))
    value.backward()
    assert embedding.grad.isfinite().all()
    if loss is triplet or len(labels.unique()) == len(labels):
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
        {"name": "lsoftmax"},
        {"name": "lsoftmax", "softness": 0},
        {"name": "triplet"},
        {"name": "supcon"},
    ],
)
def test_aligned_vectors_stay_finite(options: dict, sign: int, autocast: bool):
    """Cosines of 1 and -1, and beyond by rounding; pictures that coincide; one picture of no length."""
    torch.manual_seed(0)
    rows = 512
    weight = torch.randn(64, 64)
    labels = torch.randint(64, (rows,))
    lengths = torch.rand(rows, 1)
    lengths[0] = 0
    embedding = (sign * weight[labels] * lengths).requires_grad_()
    weight.requires_grad_()
    output = cosine_output(embedding, weight, 64.0)
    assert output.cosines.abs().max() > 1  # what acos would answer with NaN
    if options["name"] == "lsoftmax":
        output = product_output(embedding, weight)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
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
    for options in (
        {"name": "arcface", "gradient": "straight"},
        {"name": "sphereface", "margin": 1.5},
        {"name": "lsoftmax", "margin": 0},
        {"name": "lsoftmax", "softness": -1},
        {"name": "triplet", "margin": 0},
        {"name": "supcon", "temperature": 0},
    ):
        with pytest.raises(ConfigError) as caught:
            LOSSES.spec(options)
        assert caught.value.path == tuple(options)[1:]


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_the_least_scale_is_where_the_best_cosines_reach_the_probability(classes):
    """One class's direction at cosine 1, the others as far from it as they can be: -1 / (C - 1)."""
    cosines = np.array([1.0, *[-1 / (classes - 1)] * (classes - 1)])
    exact = brentq(lambda scale: softmax(scale * cosines)[0] - 0.99, 0.1, 100)
    assert least_scale(classes) == pytest.approx(exact, rel=1e-9)


HEAD = "model.head={name: margin, dim: 16, scale: 64}"


@pytest.mark.parametrize(
    ("scale", "loss", "warned"),
    [(8, "arcface", True), (8, "cosface", True), (9.05, "arcface", True), (9.1, "arcface", False),
     (64, "arcface", False), (8, "sphereface", False), (8, "cross_entropy", False)],
)  # fmt: skip
def test_a_scale_below_the_bound_is_warned_of(scale: float, loss: str, warned: bool):
    objective = f"objective={{cross_entropy: null, label: {{name: {loss}}}}}"
    config = tiny_config(f"model.head={{name: margin, dim: 16, scale: {scale}}}", objective)
    found = [line for line in prepare(config).remarks.warnings if "scale" in line]
    said = (
        f"model.head.scale={scale}: no class of 100 can reach probability 0.99; the least scale for that is "
    )
    assert [line for line in found if line.startswith(said)] == found
    assert bool(found) == warned
    assert bool([*CHECKS["margin_scale_low"].findings(planned(config))]) == warned


@pytest.mark.parametrize(
    ("name", "warned"),
    [("as_run/resnet18_pretrained_arcface", True), ("resnet18_pretrained_arcface", False)],
)
def test_the_tutorials_scale_is_warned_of(tmp_path, name: str, warned: bool):
    short = (*TINY, "train.epochs=1", "train.select=val", "model.normalize=none")
    summary = train_run(row(name, *short), Run(tmp_path / "run"))
    assert any("model.head.scale=8:" in line for line in summary.warnings) == warned


@pytest.mark.parametrize(
    "overrides",
    [
        (HEAD, "objective={cross_entropy: null, sphereface: {}}"),
        ("model.head={name: linear, bias: false}", "objective={cross_entropy: null, lsoftmax: {}}"),
        ("model.head={name: margin, dim: 16, centers: 3}", "objective={cross_entropy: null, arcface: {}}"),
        (HEAD, "objective={cross_entropy: null, cosface: {}, triplet: {weight: 0.5}}"),
        ("objective={supcon: {weight: 0.5}}",),
    ],
    ids=["sphereface", "lsoftmax", "sub-centers", "triplet", "supcon"],
)
def test_a_run_resumes_exactly(tmp_path, stop_at, overrides: tuple[str, ...]):
    overrides = (*overrides, "data.dataset.train=192", "data.dataset.test=100", "data.val=100")
    whole, summary = train_tiny(tmp_path / "whole" / "0", *overrides)
    assert summary.warnings == []
    with stop_at(1):
        train_tiny(tmp_path / "halved" / "0", *overrides)
    halved, _ = train_tiny(tmp_path / "halved" / "0", *overrides)
    assert_same_run(whole, halved)


def test_dropout_before_logits_that_no_loss_reads_is_named(tmp_path):
    head = "model.head={name: linear, bias: false, dropout: 0.5}"

    def warnings(*objective: str):
        return [line for line in prepare(tiny_config(head, *objective)).remarks.warnings if "dropout" in line]

    idle = ["model.head.dropout has no effect here"]
    alone = "objective={cross_entropy: null, lsoftmax: {}}"
    assert warnings(alone) == warnings(alone, "objective.triplet={}") == idle
    assert warnings("objective={cross_entropy: {weight: 0}, lsoftmax: {}}") == idle
    assert warnings("objective=lsoftmax") == warnings() == []
    assert warnings(alone, "model.head.dropout=0") == []
    once = ("train.epochs=1", head, alone)
    losses = [
        logged(train_tiny(tmp_path / name, *once, *more)[0])[0]["train/loss/lsoftmax"]
        for name, more in (("with", ()), ("without", ("model.head.dropout=0",)))
    ]
    assert losses[0] == losses[1]
