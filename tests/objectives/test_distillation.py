"""Distillation losses: against scipy, torch and brute force; limits and invariances; precision; errors."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine, pdist, squareform
from scipy.special import huber, rel_entr, softmax
from scipy.stats import ortho_group
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import LOSSES
from cifarlab.objectives.distillation import FitNet, distill, dkd, readable_logits, rkd
from cifarlab.objectives.objective import build_objective

pytestmark = pytest.mark.quick

FROM_TEACHERS = [name for name in LOSSES if LOSSES[name].traits.needs_teacher]
ON_LOGITS = [name for name in FROM_TEACHERS if LOSSES[name].traits.needs_teacher == "logits"]
SEEDS = st.integers(0, 2**31)
CLASSES = st.sampled_from([2, 3, 10, 100])
TEMPERATURES = st.sampled_from([0.5, 1.0, 4.0, 20.0])


def batch_of(teacher: Output | None, labels: Tensor | None = None, progress: float = 1.0) -> Batch:
    if labels is None:
        labels = torch.zeros(1 if teacher is None else len(teacher.logits), dtype=torch.int64)
    targets = F.one_hot(labels, 100).float()
    return Batch(torch.zeros(len(labels), 3, 2, 2), labels, targets, labels, teacher, progress)


def says(logits: Tensor) -> Output:
    return Output(logits, logits)


def embeds(embedding: Tensor) -> Output:
    return Output(torch.zeros(len(embedding), 2), embedding)


def compares(cosines: Tensor, scale: float) -> Output:
    return Output(scale * cosines, cosines, cosines=cosines, scale=scale)


def random_output(
    generator: torch.Generator, rows: int, classes: int, width: int = 6, size: int = 4
) -> Output:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    stages = tuple(normal(rows, width * 2**i, size // 2**i, size // 2**i) for i in range(3))
    return Output(3 * normal(rows, classes), normal(rows, width), stages)


def student_tensors(output: Output) -> list[Tensor]:
    return [output.logits, output.embedding, *output.stages]


def cast(output: Output, to: torch.dtype | torch.device) -> Output:
    stages = tuple(stage.to(to) for stage in output.stages)
    return Output(output.logits.to(to), output.embedding.to(to), stages)


def trainable(output: Output) -> Output:
    for tensor in student_tensors(output):
        tensor.requires_grad_()
    return output


def a_loss(name: str, student: Output, teacher: Output, **options: Any) -> nn.Module:
    return build_objective(
        {name: LOSSES.spec({"name": name, **options})}, 2, 2, student=student, teacher=teacher
    )


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Every loss


@pytest.mark.parametrize("name", FROM_TEACHERS)
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("teacher_dtype", [torch.float32, torch.float16])
def test_every_loss(name: str, classes: int, rows: int, autocast: bool, teacher_dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    teacher = cast(random_output(generator, rows, classes, width=9, size=8), teacher_dtype)
    student = trainable(random_output(generator, rows, classes))
    labels = torch.arange(rows) % classes
    objective = a_loss(name, student, teacher)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = objective(batch_of(teacher, labels), student)["total"]
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    assert loss.isfinite()
    loss.backward()
    gradients = [t.grad for t in student_tensors(student) if t.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    if rows > 1 or name != "rkd":  # one picture has no relations
        assert loss > 0
        assert max(g.abs().max() for g in gradients) > 0


@pytest.mark.parametrize("name", FROM_TEACHERS)
def test_autocast_changes_nothing(name: str):
    generator = torch.Generator().manual_seed(0)
    student, teacher = random_output(generator, 7, 5), random_output(generator, 7, 5, width=9)
    student, teacher = cast(student, torch.bfloat16), cast(teacher, torch.bfloat16)
    objective = a_loss(name, student, teacher)
    batch = batch_of(teacher)
    with torch.autocast("cpu", torch.bfloat16):
        low = objective(batch, student)["total"]
    high = objective(batch_of(cast(teacher, torch.float32)), cast(student, torch.float32))["total"]
    assert torch.equal(low, high)


@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in FROM_TEACHERS), ("dkd", {"warmup": 0.5})]
)
def test_no_value_steers_the_program(name: str, options: dict[str, float]):
    """Tensors without values refuse `item`, branches and shapes by value, as a captured graph does."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = random_output(generator, 7, 5), random_output(generator, 7, 5, width=9)
    objective = a_loss(name, student, teacher, **options)
    real: Any = torch.tensor(0.25)  # made within, it would keep its value
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        student, teacher = trainable(without_values(mode, student)), without_values(mode, teacher)
        batch = batch_of(teacher, torch.zeros(7, dtype=torch.int64), mode.from_tensor(real))
        objective(batch, student)["total"].backward()


def without_values(mode: FakeTensorMode, output: Output) -> Output:
    stages = tuple(mode.from_tensor(stage) for stage in output.stages)
    return Output(mode.from_tensor(output.logits), mode.from_tensor(output.embedding), stages)


@pytest.mark.parametrize("name", FROM_TEACHERS)
def test_without_a_teacher_the_fix_is_named(name: str):
    student = random_output(torch.Generator().manual_seed(0), 4, 3)
    objective = a_loss(name, student, student)
    with pytest.raises(ConfigError, match=rf"^teacher: {name} .*set teacher\.run=<a run's name>$"):
        objective(batch_of(None), student)


# distill


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, classes=CLASSES, temperature=TEMPERATURES, spread=st.sampled_from([0.1, 3.0, 30.0]))
def test_distill_is_scipys_relative_entropy(seed: int, classes: int, temperature: float, spread: float):
    student, teacher = spread * draw(seed, 2, 6, classes)
    got = distill(batch_of(says(teacher)), says(student), temperature=temperature)
    p, q = (softmax(logits.numpy() / temperature, axis=1) for logits in (teacher, student))
    expected = temperature**2 * rel_entr(p, q).sum(1).mean()
    assert got.item() == pytest.approx(expected, rel=1e-7, abs=1e-10 * temperature**2)


def test_distill_at_large_temperatures_is_a_squared_distance():
    """Hinton, Vinyals, Dean 2015, eq. 4, with logits centred picture by picture; so is its gradient."""
    student, teacher = draw(0, 2, 6, 10)
    student.requires_grad_()
    centred = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = centred.square().sum(1).mean() / (2 * 10)
    want = gradient(expected, student)
    for temperature in (100.0, 1000.0):
        loss = distill(batch_of(says(teacher)), says(student), temperature=temperature)
        torch.testing.assert_close(loss, expected, rtol=10 / temperature, atol=0)
        torch.testing.assert_close(
            gradient(loss, student), want, rtol=0, atol=want.abs().max() / temperature * 10
        )


def test_the_gradient_keeps_its_size_as_the_temperature_grows():
    student, teacher = 5 * draw(0, 2, 64, 100)
    student.requires_grad_()
    sizes = [
        gradient(distill(batch_of(says(teacher)), says(student), temperature=t), student).norm().item()
        for t in (1.0, 4.0, 20.0, 100.0)
    ]
    assert max(sizes) < 10 * min(sizes)


# dkd


def plain_dkd(student: Tensor, teacher: Tensor, labels: Tensor, **options: float) -> float:
    return dkd(batch_of(says(teacher), labels), says(student), **options).item()


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, classes=CLASSES, temperature=TEMPERATURES, spread=st.sampled_from([0.1, 3.0, 10.0]))
def test_dkd_is_scipys_relative_entropies(seed: int, classes: int, temperature: float, spread: float):
    student, teacher = spread * draw(seed, 2, 6, classes)
    labels = torch.randint(classes, (6,), generator=torch.Generator().manual_seed(seed))
    tckd, nckd = [], []
    for s, t, label in zip(student.numpy(), teacher.numpy(), labels.tolist(), strict=True):
        p, q = softmax(t / temperature), softmax(s / temperature)
        rest = np.arange(classes) != label
        tckd.append(rel_entr(p[label], q[label]) + rel_entr(p[rest].sum(), q[rest].sum()))
        nckd.append(rel_entr(softmax(t[rest] / temperature), softmax(s[rest] / temperature)).sum())
    for alpha, beta in ((1.0, 8.0), (1.0, 0.0), (0.0, 2.0)):
        expected = temperature**2 * (alpha * np.mean(tckd) + beta * np.mean(nckd))
        got = plain_dkd(student, teacher, labels, temperature=temperature, alpha=alpha, beta=beta)
        assert got == pytest.approx(expected, rel=1e-7, abs=1e-10 * temperature**2)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, classes=CLASSES, temperature=TEMPERATURES, spread=st.sampled_from([0.1, 3.0, 30.0]))
def test_distill_is_dkd_with_the_papers_weight(seed: int, classes: int, temperature: float, spread: float):
    """KD = TCKD + (1 - p(label)) NCKD, for each picture (Zhao et al. 2022)."""
    student, teacher = spread * draw(seed, 2, 1, classes)
    labels = torch.tensor([seed % classes])
    others = 1 - softmax(teacher.numpy() / temperature, axis=1)[0, seed % classes]
    want = distill(batch_of(says(teacher)), says(student), temperature=temperature).item()
    got = plain_dkd(student, teacher, labels, temperature=temperature, alpha=1.0, beta=others)
    assert got == pytest.approx(want, rel=1e-7, abs=1e-10 * temperature**2)


def test_two_classes_have_nothing_but_the_label():
    student, teacher = draw(0, 2, 6, 2)
    labels = torch.arange(6) % 2
    want = distill(batch_of(says(teacher)), says(student)).item()
    assert plain_dkd(student, teacher, labels) == pytest.approx(want)
    assert plain_dkd(student, teacher, labels, alpha=0.0) == 0


@pytest.mark.parametrize("of", [float, torch.tensor])
def test_warmup_rises_linearly(of: Any):
    student, teacher = draw(0, 2, 6, 5)
    shares = []
    for progress in (0.0, 0.05, 0.1, 0.2, 0.9, 1.0):
        batch = batch_of(says(teacher), progress=of(progress))
        whole, part = dkd(batch, says(student)), dkd(batch, says(student), warmup=0.2)
        shares.append((part / whole).item())
    assert shares == pytest.approx([0, 0.25, 0.5, 1, 1, 1])


# Both losses on logits


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, classes=CLASSES, shift=st.floats(-100, 100))
@pytest.mark.parametrize("name", ON_LOGITS)
def test_a_constant_added_to_logits_changes_nothing(name: str, seed: int, classes: int, shift: float):
    student, teacher = draw(seed, 2, 6, classes)
    loss = LOSSES.spec(name).bind()
    labels = torch.arange(6) % classes
    want = loss(batch_of(says(teacher), labels), says(student))
    shifts = shift * draw(seed + 1, 2, 6, 1)
    got = loss(batch_of(says(teacher + shifts[0]), labels), says(student + shifts[1]))
    torch.testing.assert_close(got, want)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, classes=CLASSES, spread=st.sampled_from([1.0, 30.0]))
@pytest.mark.parametrize("name", ON_LOGITS)
def test_an_equal_teacher_teaches_nothing(name: str, seed: int, classes: int, spread: float):
    logits = (spread * draw(seed, 6, classes)).requires_grad_()
    batch = batch_of(says(logits.detach()), torch.arange(6) % classes)
    loss = LOSSES.spec(name).build(batch, says(logits))
    torch.testing.assert_close(loss.item(), 0.0)
    assert gradient(loss, logits).abs().max() < 1e-14
    other = LOSSES.spec(name).build(batch, says(logits.flip(0)))
    assert other > 0


@settings(max_examples=100, deadline=None)
@given(
    seed=SEEDS,
    classes=CLASSES,
    student_spread=st.sampled_from([0.0, 1e2, 1e4, 1e8, 1e30]),
    teacher_spread=st.sampled_from([0.0, 1e2, 1e4, 1e8, 1e30]),
)
@pytest.mark.parametrize("name", ON_LOGITS)
def test_extreme_logits_stay_finite(
    name: str, seed: int, classes: int, student_spread: float, teacher_spread: float
):
    student, teacher = draw(seed, 2, 6, classes, dtype=torch.float32)
    student = (student_spread * student).requires_grad_()
    batch = batch_of(says(teacher_spread * teacher), torch.arange(6) % classes)
    loss = LOSSES.spec(name).build(batch, says(student))
    assert loss.isfinite()
    # No logit's pull is more than T x (alpha + beta) / B, whatever its size; but for rounding.
    assert gradient(loss, student).abs().max() <= 4 * (1 + 8) / 6 * (1 + 1e-5)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_gradients_on_logits(name: str):
    student, teacher = 2 * draw(0, 2, 4, 5)
    batch = batch_of(says(teacher), torch.tensor([0, 4, 2, 2]))
    loss = LOSSES.spec(name).bind()
    assert torch.autograd.gradcheck(lambda logits: loss(batch, says(logits)), student.requires_grad_())


# Cosines


def test_cosines_are_read_at_the_teachers_scale():
    cosines, others = draw(0, 2, 6, 10).tanh()
    teacher = compares(others, 11.5)
    assert torch.equal(readable_logits(compares(cosines, 64.0), teacher), 11.5 * cosines)
    batch = batch_of(teacher, torch.arange(6))
    for loss in (distill, dkd):
        want = loss(batch, says(11.5 * cosines))
        torch.testing.assert_close(loss(batch, compares(cosines, 64.0)), want)
        torch.testing.assert_close(loss(batch, compares(others, 64.0)).item(), 0.0)


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_cosines_are_else_read_at_the_least_scale_that_reaches_99_percent(classes: int):
    """At the best arrangement: every two classes' directions at a cosine of -1 / (C - 1)."""
    cosines = torch.full((1, classes), -1 / (classes - 1), dtype=torch.float64)
    cosines[0, 0] = 1
    logits = readable_logits(compares(cosines, 64.0), says(torch.zeros(1, classes)))
    assert logits.softmax(1)[0, 0].item() == pytest.approx(0.99)
    if classes == 100:
        assert (logits[0, 0] / cosines[0, 0]).item() == pytest.approx(9.1, abs=0.01)


def test_logits_are_read_as_they_are():
    logits, others = draw(0, 2, 6, 10)
    for teacher in (says(others), compares(others.tanh(), 5.0)):
        assert torch.equal(readable_logits(says(logits), teacher), logits)


# rkd


def brute_force_rkd(
    student: np.ndarray, teacher: np.ndarray, distance: float, angle: float, group: int
) -> float:
    def distances(embedding: np.ndarray) -> np.ndarray:
        pairs = squareform(pdist(embedding))
        return pairs / pairs[pairs > 0].mean() if pairs.any() else pairs

    def angles(embedding: np.ndarray) -> list[float]:
        found = []
        for start in range(0, len(embedding), group):
            part = embedding[start : start + group]
            for corner in part:
                sides = part - corner
                found += [1 - cosine(a, b) if a.any() and b.any() else 0.0 for a in sides for b in sides]
        return found

    return distance * huber(1, distances(student) - distances(teacher)).mean() + angle * np.mean(
        huber(1, np.array(angles(student)) - np.array(angles(teacher)))
    )


def plain_rkd(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    return rkd(batch_of(embeds(teacher)), embeds(student), **options)


@settings(max_examples=50, deadline=None)
@given(
    seed=SEEDS,
    rows=st.integers(1, 8),
    group=st.integers(3, 9),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    weights=st.sampled_from([(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)]),
    coincide=st.booleans(),
)
def test_rkd_is_brute_force(
    seed: int, rows: int, group: int, widths: tuple[int, int], weights: tuple[float, float], coincide: bool
):
    student, teacher = draw(seed, rows, widths[0]), 1e6 + draw(seed + 1, rows, widths[1])
    if coincide and rows > 1:
        student[1] = student[0]
    distance, angle = weights
    got = plain_rkd(student, teacher, distance=distance, angle=angle, group=group)
    expected = brute_force_rkd(student.numpy(), teacher.numpy(), distance, angle, group)
    assert got.item() == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_rkd_takes_a_benchmarks_batch_whole():
    student, teacher = draw(0, 70, 4), draw(1, 70, 6)
    whole, first = plain_rkd(student[:64], teacher[:64], group=1000), plain_rkd(student[:64], teacher[:64])
    assert torch.equal(whole, first)
    assert plain_rkd(student, teacher) != plain_rkd(student, teacher, group=1000)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, width=st.integers(2, 6), extra=st.integers(0, 3), scale=st.floats(0.01, 100))
def test_rkd_sees_neither_rotation_nor_scale_nor_place(seed: int, width: int, extra: int, scale: float):
    student, teacher = draw(seed, 8, width), draw(seed + 1, 8, width)
    wider = width + extra
    rotation = torch.from_numpy(ortho_group.rvs(wider, random_state=seed))[:width]
    moved = scale * student @ rotation + draw(seed + 2, wider)
    torch.testing.assert_close(plain_rkd(moved, teacher), plain_rkd(student, teacher))
    torch.testing.assert_close(plain_rkd(student, moved).item(), 0.0)


@pytest.mark.parametrize("angle", [0.0, 50.0])
@pytest.mark.parametrize("apart", [0.0, 1e-7])
@pytest.mark.parametrize("rows", [5, 8])
def test_coinciding_embeddings_have_small_gradients(angle: float, apart: float, rows: int):
    """The slopes of the square root in a distance and of an angle have no bound: neither may be felt."""
    student = draw(0, rows, 6, dtype=torch.float32)
    student[1:4] = student[0]
    student[1, 0] += apart
    teacher = draw(1, rows, 6, dtype=torch.float32)
    student.requires_grad_()
    loss = plain_rkd(student, teacher, angle=angle)
    slope = gradient(loss, student)
    assert slope.abs().max() < 2 * (25 + angle)
    scaled = plain_rkd(1024 * student, teacher, angle=angle)
    torch.testing.assert_close(scaled, loss)
    torch.testing.assert_close(gradient(scaled, student), slope)


def test_a_batch_of_one_point_has_no_gradient():
    student = torch.ones(5, 4, requires_grad=True)
    loss = plain_rkd(student, draw(0, 5, 4, dtype=torch.float32))
    assert loss.dtype == torch.float32
    assert loss > 0
    assert not gradient(loss, student).any()
    assert plain_rkd(draw(0, 5, 4), torch.ones(5, 4)).isfinite()


def test_gradients_on_embeddings():
    student, teacher = draw(0, 7, 3), draw(1, 7, 4)

    def loss(embedding: Tensor) -> Tensor:
        return plain_rkd(embedding, teacher, group=4)

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


# fitnet


def with_stages(*stages: Tensor) -> Output:
    return Output(torch.zeros(len(stages[0]), 2), torch.zeros(len(stages[0]), 2), stages)


@pytest.mark.parametrize("stage", [-2, 0])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("of_student", "of_teacher"), [((4, 4), (4, 4)), ((2, 4), (6, 4)), ((8, 6), (4, 6))])
def test_fitnet_is_torchs_mean_squared_error(
    of_student: tuple[int, int], of_teacher: tuple[int, int], relu: bool, stage: int
):
    last = torch.zeros(5, 1, 1, 1)
    maps, hints = (
        draw(0, 5, 3, *of_student, dtype=torch.float32),
        draw(1, 5, 7, *of_teacher, dtype=torch.float32),
    )
    student, teacher = with_stages(maps, last), with_stages(hints, last)
    fitnet = FitNet(student, teacher, stage=stage, relu=relu)
    convolution, norm = nn.Conv2d(3, 7, 1, bias=False), nn.BatchNorm2d(7)
    weight, scale, shift = fitnet.parameters()
    nn.init.normal_(scale)
    nn.init.normal_(shift)
    for theirs, ours in ((convolution.weight, weight), (norm.weight, scale), (norm.bias, shift)):
        theirs.data.copy_(ours)
    size = [min(pair) for pair in zip(of_student, of_teacher, strict=True)]
    pooled, target = (
        F.avg_pool2d(m, [have // want for have, want in zip(m.shape[-2:], size, strict=True)])
        for m in (maps, hints)
    )
    regressed = norm(convolution(pooled))
    expected = F.mse_loss(regressed.relu() if relu else regressed, target)
    loss = fitnet(batch_of(teacher), student)
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, [convolution.weight, norm.weight, norm.bias])
    for got, want in zip(torch.autograd.grad(loss, [weight, scale, shift]), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_the_regressor_is_the_objectives():
    generator = torch.Generator().manual_seed(0)
    student, teacher = random_output(generator, 4, 3), random_output(generator, 4, 3, width=9)
    objective = a_loss("fitnet", student, teacher, stage=2)
    shapes = {name: tuple(p.shape) for name, p in objective.named_parameters()}
    norm = {f"loss_fitnet.regressor.1.{name}": (36,) for name in ("weight", "bias")}
    assert shapes == {"loss_fitnet.regressor.0.weight": (36, 24, 1, 1), **norm}
    assert objective.state_dict().keys() == shapes.keys()


def test_a_regressor_learns_a_linear_map():
    """Teacher's maps that are the student's, mixed by a 1x1 convolution, can be met exactly."""
    torch.manual_seed(0)
    maps = torch.randn(16, 3, 4, 4)
    hints = F.conv2d(maps, torch.randn(5, 3, 1, 1), torch.randn(5))
    student, teacher = with_stages(maps, maps), with_stages(hints, hints)
    fitnet, batch = FitNet(student, teacher, relu=False), batch_of(teacher)
    optimizer = torch.optim.Adam(fitnet.parameters(), lr=0.05)
    losses = []
    for _ in range(300):
        loss = fitnet(batch, student)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-4 * losses[0]


def test_gradients_on_maps():
    maps, hints = draw(0, 3, 2, 3, 4), draw(1, 3, 4, 2, 2)
    teacher = with_stages(hints)
    fitnet = FitNet(with_stages(maps), teacher, stage=0).double()
    assert torch.autograd.gradcheck(
        lambda m: fitnet(batch_of(teacher), with_stages(m)), maps.requires_grad_()
    )


@pytest.mark.parametrize("stage", [2, -3])
def test_a_stage_that_one_of_the_two_lacks_is_refused(stage: int):
    maps = torch.zeros(1, 2, 2, 2)
    two, three = with_stages(maps, maps), with_stages(maps, maps, maps)
    for student, teacher, counts in (
        (two, three, "the student has 2 stages, the teacher 3"),
        (three, two, "the student has 3 stages, the teacher 2"),
    ):
        expected = rf"^no stage {stage}: {counts}; use -2 to 1$"
        with pytest.raises(ConfigError, match=expected) as caught:
            FitNet(student, teacher, stage=stage)
        assert caught.value.path == ()


def test_bad_settings_are_refused_on_loading():
    for name, option in (
        *((name, {"temperature": 0}) for name in ON_LOGITS),
        *(("dkd", {key: -1}) for key in ("alpha", "beta", "warmup")),
        ("dkd", {"warmup": 1.1}),
        *(("rkd", {key: -1}) for key in ("distance", "angle")),
        ("rkd", {"group": 2}),
    ):
        with pytest.raises(ConfigError) as caught:
            LOSSES.spec({"name": name, **option})
        assert caught.value.path == tuple(option)
