"""Every registered loss: targets, heads, precision, determinism, mistakes; cross-entropy against torch's."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cifarlab.config import build_config
from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import DATASETS, LOSSES, MIXERS
from cifarlab.models.heads import Linear, Margin
from cifarlab.objectives.classification import cross_entropy
from cifarlab.objectives.objective import build_objective
from cifarlab.optim.optimizers import sgd
from tests.batches import CLASSES, ROWS, WIDTH, batch_of, random_batch

pytestmark = pytest.mark.quick

HARD_ONLY = [name for name in LOSSES if not LOSSES[name].traits.soft_targets]
ON_COSINES = [name for name in LOSSES if LOSSES[name].traits.needs_cosines]
ON_PRODUCTS = [name for name in LOSSES if LOSSES[name].traits.needs_products]
TARGETS = [
    (name, kind)
    for name in LOSSES
    for kind in ("hard", "smoothed", "mixed")
    if kind == "hard" or name not in HARD_ONLY
]


HEADS = {
    "linear": Linear,
    "linear, no bias": partial(Linear, bias=False),
    "margin": Margin,
    "margin, 2 centers": partial(Margin, centers=2),
}


def fix_for(name: str, head: str) -> str | None:
    """What a loss says beside a head that does not give what it needs."""
    if name in ON_COSINES and not head.startswith("margin"):
        return r"set model\.head=margin"
    return "bias: false" if name in ON_PRODUCTS and head != "linear, no bias" else None


def with_stages(output: Output, features: Tensor) -> Output:
    maps = features.unflatten(1, (-1, 2, 2))
    return replace(output, stages=(maps, maps))


def taught_objective(name: str, student: Output, teacher: Output) -> torch.nn.Module:
    objective = build_objective(
        {name: LOSSES.spec(name)}, CLASSES, student.embedding.shape[1], student=student, teacher=teacher
    )
    return objective.requires_grad_(False)


@pytest.mark.parametrize(("name", "kind"), TARGETS)
@pytest.mark.parametrize("head", [*HEADS])
@pytest.mark.parametrize("autocast", [False, True])
def test_every_loss(name: str, kind: str, head: str, autocast: bool):
    torch.manual_seed(0)
    model = HEADS[head](WIDTH, CLASSES)
    features = torch.randn(ROWS, WIDTH, requires_grad=True)
    teacher = with_stages(Linear(WIDTH, CLASSES)(torch.randn(ROWS, WIDTH)), torch.randn(ROWS, WIDTH))
    batch = replace(random_batch(kind), teacher=teacher)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = with_stages(model(features), features)
        objective = taught_objective(name, output, teacher)
        if fix := fix_for(name, head):
            with pytest.raises(ConfigError, match=fix):
                objective(batch, output)
            return
        loss = objective(batch, output)["total"]
        again = objective(batch, output)["total"]
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    assert loss.isfinite()
    assert torch.equal(loss, again)
    gradient, second = (torch.autograd.grad(x, features, retain_graph=True)[0] for x in (loss, again))
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    assert torch.equal(gradient, second)


@pytest.mark.parametrize("name", [*LOSSES])
def test_autocast_changes_nothing_in_a_loss(name: str):
    torch.manual_seed(0)
    head = "linear, no bias" if name in ON_PRODUCTS else "margin"
    features = torch.randn(ROWS, WIDTH)
    output = with_stages(HEADS[head](WIDTH, CLASSES)(features), features)
    objective = taught_objective(name, output, output)
    batch = replace(random_batch(), teacher=replace(output, logits=output.logits.flip(0)))
    with torch.autocast("cpu", torch.bfloat16):
        low = objective(batch, output)["total"]
    assert torch.equal(low, objective(batch, output)["total"])


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "fitnet"])  # It has a batch norm.
def test_the_mean_of_two_batches_is_that_of_both_unless_a_loss_compares_pictures(name: str):
    """What a loss that compares would do to `train.accumulate`, beside which it is refused."""
    torch.manual_seed(0)
    head = HEADS["linear, no bias" if name in ON_PRODUCTS else "margin"](WIDTH, CLASSES).eval()
    features = torch.randn(ROWS, WIDTH)
    labels = torch.arange(ROWS) % 3

    def loss(rows: slice) -> Tensor:
        output = with_stages(head(features[rows]), features[rows])
        teacher = replace(output, logits=output.logits.flip(1), embedding=output.embedding**2)
        return taught_objective(name, output, teacher)(
            replace(batch_of(labels[rows]), teacher=teacher), output
        )["total"]

    apart = (loss(slice(0, ROWS // 2)) + loss(slice(ROWS // 2, ROWS))) / 2
    assert torch.allclose(loss(slice(0, ROWS)), apart, rtol=1e-4) != bool(LOSSES[name].traits.compares)


@pytest.mark.parametrize("name", [name for name in LOSSES if not LOSSES[name].traits.needs_teacher])
def test_no_value_steers_the_program(name: str):
    """Tensors without values refuse `item`, branches and shapes by value, as a captured graph does."""
    torch.manual_seed(0)
    head = "linear, no bias" if name in ON_PRODUCTS else "margin"
    with torch.no_grad():
        output, batch = HEADS[head](WIDTH, CLASSES)(torch.randn(ROWS, WIDTH)), random_batch()
    progress: Any = torch.tensor(0.25)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:

        def without_values(record: Any) -> Any:
            tensors = {key: value for key, value in vars(record).items() if isinstance(value, Tensor)}
            return replace(record, **{key: mode.from_tensor(value) for key, value in tensors.items()})

        batch = without_values(replace(batch, progress=progress))
        LOSSES.spec(name).build(batch, without_values(output))


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
    with pytest.raises(ConfigError, match="does not support mixed targets") as caught:
        build_config(recipe)
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
    with pytest.raises(ConfigError, match=r"set model\.head=") as caught:
        build_config(recipe)
    assert caught.value.path == ("objective", "label")
    build_config({**recipe, "model": {"backbone": "test_resnet", "head": needed}})


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


def test_bad_settings_are_refused_on_loading():
    for options in ({"smoothing": 1.0}, {"smoothing": -0.1}):
        with pytest.raises(ConfigError) as caught:
            LOSSES.spec({"name": "cross_entropy", **options})
        assert caught.value.path == ("smoothing",)
