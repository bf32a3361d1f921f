"""Sharpness-aware steps: against a loop written out, statistics, seeds, loss scales, an exact resume."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.amp import GradScaler

from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import SHARPNESS
from cifarlab.engine.step import Engine
from cifarlab.optim.sam import asam, sam, uphill
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

PLAIN = ("train.precision=float32", "data.augment=null")


def trained(*overrides: str, steps: int = 6, scaler: GradScaler | None = None) -> Engine:
    engine = prepare(tiny_config(*PLAIN, *overrides)).engine
    engine.scaler = scaler or engine.scaler
    engine.model.train()
    for step in range(steps):
        engine.step(engine.order(0), 0, step)
    return engine


def assert_same_weights(one: Engine, other: Engine):
    for (key, value), expected in zip(
        one.model.state_dict().items(), other.model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), key


@pytest.mark.parametrize("name", ["sam", "asam"])
def test_the_steps_are_those_of_a_loop_written_out(name: str):
    """The two steps of Foret et al. 2021, algorithm 1, and of Kwon et al. 2021, algorithm 1."""
    rho = 0.3
    overrides = (
        "model.backbone.dropout=0",
        f"optim={{name: sgd, lr: 0.05, sharpness: {{name: {name}, rho: {rho}}}}}",
    )  # fmt: skip
    engine = trained(*overrides)
    again = prepare(tiny_config(*PLAIN, *overrides)).engine
    twin = again.model.train()
    parameters = [*twin.parameters()]
    norms = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=0.05, momentum=0.9, nesterov=True, weight_decay=again.config.optim.weight_decay,
    )  # fmt: skip
    losses = []
    for step in range(6):
        images, labels, _ = again.train_split.gather(again.plan.positions(again.order(0), step))

        def loss_here(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            return nn.functional.cross_entropy(twin(images).logits, labels)

        loss = loss_here()
        gradients = torch.autograd.grad(loss, parameters)
        seen = copy.deepcopy([norm.state_dict() for norm in norms])
        weights = [p.detach().clone() for p in parameters]
        units = [w.abs() + 0.01 if name == "asam" else torch.ones_like(w) for w in weights]
        length = sum((g * u).square().sum() for g, u in zip(gradients, units, strict=True)) ** 0.5
        with torch.no_grad():
            for p, g, u in zip(parameters, gradients, units, strict=True):
                p += rho * u**2 * g / length
        optimizer.zero_grad()
        loss_here().backward()
        with torch.no_grad():
            for p, weight in zip(parameters, weights, strict=True):
                p.copy_(weight)
        for norm, state in zip(norms, seen, strict=True):
            norm.load_state_dict(state)
        torch.nn.utils.clip_grad_norm_(parameters, 5)
        for group in optimizer.param_groups:
            group["lr"] = again.learning_rate(step)
        optimizer.step()
        losses.append(loss.item())
    assert engine.means.read()["loss/total"] == pytest.approx(sum(losses) / 6, rel=1e-5)
    for (key, ours), theirs in zip(
        engine.model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=key)
    assert engine.model.get_submodule("backbone.1").num_batches_tracked == 6


@pytest.mark.parametrize(
    ("name", "precision"), [("sam", "float32"), ("asam", "float32"), ("sam", "bfloat16")]
)
def test_without_a_distance_it_is_the_plain_step_bit_for_bit(name: str, precision: str):
    """The second pass sees the same pictures, dropout and statistics, and remembers none of them."""
    overrides = (
        f"train.precision={precision}",
        "data.augment={color_jitter: {p: 0.5}}",
        "model.backbone.dropout=0.5",
    )
    plain = trained(*overrides)
    near = trained(*overrides, f"optim.sharpness={{name: {name}, rho: 1e-30}}")
    assert_same_weights(plain, near)
    assert plain.means.read() == near.means.read()


def test_a_distance_changes_the_step():
    plain, far = trained(), trained("optim.sharpness=sam")
    assert not torch.equal(
        far.model.get_parameter("head.fc.weight"), plain.model.get_parameter("head.fc.weight")
    )


@pytest.mark.parametrize("name", ["sam", "asam"])
@pytest.mark.parametrize("grad_clip", ["null", "0.1"])
def test_a_loss_scale_changes_nothing(name: str, grad_clip: str):
    overrides = (f"optim.sharpness={name}", f"train.grad_clip={grad_clip}")
    scaler = GradScaler("cpu", init_scale=2.0**10)
    assert_same_weights(trained(*overrides), trained(*overrides, scaler=scaler))


def test_an_overflow_skips_the_step_and_leaves_the_weights():
    scaler = GradScaler("cpu", init_scale=float("inf"))
    engine = trained("optim.sharpness=sam", steps=1, scaler=scaler)
    fresh = prepare(tiny_config(*PLAIN)).engine
    for (key, value), before in zip(engine.model.named_parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(value, before), key


gradients = st.lists(st.floats(-10, 10, width=32), min_size=6, max_size=6)


@settings(max_examples=100, deadline=None)
@given(weights=gradients, slopes=gradients, other=gradients, rho=st.floats(0.01, 2))
@pytest.mark.parametrize("eta", [None, 0.01, 1.0])
def test_no_other_move_of_that_length_climbs_more(eta, weights, slopes, other, rho):
    """What defines both: the best move of a linear loss within a ball, in units of |w| + eta for ASAM."""
    w, g, direction = (torch.tensor(values, dtype=torch.float64) for values in (weights, slopes, other))
    unit = torch.ones_like(w) if eta is None else w.abs() + eta
    moves = (
        sam([w[:4], w[4:]], [g[:4], g[4:]], rho=rho)
        if eta is None
        else (asam([w[:4], w[4:]], [g[:4], g[4:]], rho=rho, eta=eta))
    )
    move = torch.cat(moves)
    if (g * unit).norm() < 1e-6:
        return
    assert (move / unit).norm().item() == pytest.approx(rho, rel=1e-5)
    rival = rho * unit * direction / direction.norm().clamp(min=1e-9)
    assert (g @ move).item() >= (g @ rival).item() - 1e-6 * (g @ move).abs().item()


def test_a_vanishing_gradient_moves_nothing():
    for ascent in (sam, asam):
        assert torch.equal(ascent([torch.ones(3)], [torch.zeros(3)])[0], torch.zeros(3))


def test_weights_come_back_bit_for_bit():
    torch.manual_seed(0)
    layer, unused = nn.Linear(30, 30), nn.Linear(2, 2)
    for gradient in (torch.randn(30, 30), torch.full((30, 30), torch.nan)):
        layer.weight.grad, before = gradient, layer.weight.detach().clone()
        with uphill(SHARPNESS.spec("sam").bind(), [*layer.parameters(), *unused.parameters()]):
            assert not torch.equal(layer.weight, before)
        assert torch.equal(layer.weight, before)
        assert torch.equal(layer.weight.grad, gradient) or gradient.isnan().any()


AROUND = (
    "optim={name: adamw, sharpness: sam}",
    "optim={name: sgd, lr: 0.05, sharpness: {name: asam, rho: 0.1}, lookahead: {steps: 4}}",
    "optim={name: lion, lr: 1e-4, sharpness: sam, schedule: cosine_restarts}",
    "optim={name: muon, lr: 1e-3, rest: sgd, sharpness: sam, lookahead: {}, schedule: linear}",
)


@pytest.mark.parametrize("optim", AROUND)
def test_a_run_resumes_exactly(optim: str, tmp_path, stop_at):
    overrides = (optim, "train.average={name: ema, decay: 0.9}", "model.backbone.dropout=0.3")
    whole, _ = train_tiny(tmp_path / "whole", *overrides)
    with stop_at(5):
        train_tiny(tmp_path / "halved", *overrides)
    halved, _ = train_tiny(tmp_path / "halved", *overrides)
    assert_same_run(whole, halved)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.sharpness={name: sam, rho: 0}", "optim.sharpness.rho: "),
        ("optim.sharpness={name: sam, eta: 0.1}", "optim.sharpness.eta: unknown"),
        ("optim.sharpness=ssam", "optim.sharpness: unknown sharpness-aware step 'ssam'; did you mean"),
        ("optim.sharpnes=sam", "optim.sharpnes: unknown; did you mean sharpness?"),
        ("optim.lookahead={steps: 0}", "optim.lookahead.steps: "),
        ("optim.lookahead={alhpa: 0.5}", "optim.lookahead.alhpa: unknown; did you mean alpha?"),
    ],
)
def test_bad_settings_are_refused_on_loading(override: str, message: str):
    with pytest.raises(ConfigError) as caught:
        tiny_config(override)
    assert str(caught.value).startswith(message)
