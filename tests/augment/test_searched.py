"""RandAugment, TrivialAugment and AutoAugment: their tables against torchvision's, and what they draw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from cifarlab.augment.searched import policies, tables
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS

CAMEL = {name: "".join(word.capitalize() for word in name.split("_")) for name in tables.OPERATIONS}
SIZES = [(32, 32), (20, 48), (224, 224)]
COUNT = 30_000
# Of pictures that are never looked at; a shift of magnitude 9 is a pixel, and no two of its rows are equal.
SIDE = 12


def space(policy: Any, bins: int, height: int, width: int) -> dict[str, tuple[Tensor | None, bool]]:
    """Torchvision's: {operation: (its magnitudes by bin, or None; whether signed)}."""
    entries = policy._AUGMENTATION_SPACE.items()
    return {name: (magnitudes(bins, height, width), signed) for name, (magnitudes, signed) in entries}


def reference_row(name: str, magnitude: float, height: int, width: int) -> Tensor:
    """(COLUMNS,), from torchvision's code: its matrices, and factors as it calls its functions with them."""
    place = tables.OPERATIONS[name].kernel
    numbers: list[float] = []
    if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        matrix = _matrices(name, magnitude, height, width)
        numbers = [matrix[0], matrix[1], matrix[2], matrix[3], matrix[4], matrix[5]]
    elif name == "brightness":
        numbers = [1 + magnitude]
    elif name == "color":
        numbers = [1 + magnitude, -magnitude]
    elif name == "contrast":
        numbers = [1 + magnitude, 0, -magnitude]
    elif name == "sharpness":
        numbers = [1 + magnitude]
    elif name == "posterize":
        numbers = [1 << int(magnitude)]
    elif name == "solarize":
        numbers = [magnitude]
    return torch.tensor([place, *numbers, *[0.0] * (tables.COLUMNS - 1 - len(numbers))])


def _matrices(name: str, magnitude: float, height: int, width: int) -> list[float]:
    inverse: Callable[..., list[float]] = TF._geometry._get_inverse_affine_matrix
    slope = float(np.degrees(np.arctan(magnitude)))
    corner = [-width / 2, -height / 2]
    return {
        "shear_x": lambda: inverse(corner, 0.0, [0, 0], 1.0, [slope, 0.0]),
        "shear_y": lambda: inverse(corner, 0.0, [0, 0], 1.0, [0.0, slope]),
        "translate_x": lambda: inverse([0, 0], 0.0, [int(magnitude), 0], 1.0, [0, 0]),
        "translate_y": lambda: inverse([0, 0], 0.0, [0, int(magnitude)], 1.0, [0, 0]),
        "rotate": lambda: inverse([0, 0], -magnitude, [0, 0], 1.0, [0, 0]),
    }[name]()


def expected_row(name: str, entry: tuple[Tensor | None, bool], index: int, sign: int, size: Any) -> Tensor:
    magnitudes, signed = entry
    magnitude = 0.0 if magnitudes is None else float(magnitudes[index])
    return reference_row(name, -magnitude if signed and sign else magnitude, *size)


# Tables.


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("magnitude", [0, 9, 14, 30])
def test_rand_augment_has_torchvisions_table(magnitude: int, size: tuple[int, int]) -> None:
    library = space(v2.RandAugment, 31, *size)
    assert [CAMEL[name] for name in policies.OPERATION_NAMES] == list(library)
    expected = [
        expected_row(name, library[CAMEL[name]], magnitude, sign, size)
        for name in policies.OPERATION_NAMES
        for sign in (0, 1)
    ]
    torch.testing.assert_close(
        policies.rand_rows(magnitude, *size), torch.stack(expected), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("size", SIZES)
def test_trivial_augment_has_torchvisions_table(size: tuple[int, int]) -> None:
    library = space(v2.TrivialAugmentWide, 31, *size)
    assert [CAMEL[name] for name in policies.OPERATION_NAMES] == list(library)
    expected = [
        expected_row(name, library[CAMEL[name]], index, sign, size)
        for name in policies.OPERATION_NAMES
        for index in range(31)
        for sign in (0, 1)
    ]
    torch.testing.assert_close(policies.trivial_rows(*size), torch.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_auto_augment_has_torchvisions_table(size: tuple[int, int]) -> None:
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    library = space(policy, 10, *size)
    names = {camel: name for name, camel in CAMEL.items()}
    expected = []
    for camel, probability, index in (entry for pair in policy._policies for entry in pair):
        for sign in (0, 1):
            row = expected_row(names[camel], library[camel], index or 0, sign, size)
            expected.append(torch.cat([row, torch.tensor([probability])]))
    torch.testing.assert_close(policies.auto_rows(*size), torch.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("severity", "every"), [(3, True), (10, True), (1, False), (10, False)])
def test_aug_mix_has_torchvisions_table(severity: int, every: bool, size: tuple[int, int]) -> None:
    policy: Any = v2.AugMix
    entries = policy._AUGMENTATION_SPACE if every else policy._PARTIAL_AUGMENTATION_SPACE
    library = {name: (make(10, *size), signed) for name, (make, signed) in entries.items()}
    names = [name for name in tables.OPERATIONS if CAMEL[name] in library]
    assert len(names) == len(library)
    expected = [
        expected_row(name, library[CAMEL[name]], index, sign, size)
        for name in names
        for index in range(severity)
        for sign in (0, 1)
    ]
    found = policies.mixed_rows(severity, every, *size)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-6, atol=1e-6)


# Rows turned to pictures.


def torchvision_view(picture: Tensor, name: str, magnitude: float) -> Any:
    """What torchvision's policies make of a picture in floats, by their own code."""
    policy = v2.RandAugment()
    given = (picture, CAMEL[name], magnitude, TF.InterpolationMode.NEAREST, policy._fill)
    return policy._apply_image_or_video_transform(*given)


@pytest.mark.parametrize("wide", [False, True])
def test_every_row_makes_torchvisions_view(wide: bool, real_pictures: np.ndarray) -> None:
    policy = v2.TrivialAugmentWide if wide else v2.AutoAugment
    bins = 31 if wide else 10
    images = torch.from_numpy(real_pictures[:4].transpose(0, 3, 1, 2).copy()).float() / 255
    differ = []
    for camel, (magnitudes, signed) in space(policy, bins, 32, 32).items():
        name = next(ours for ours, theirs in CAMEL.items() if theirs == camel)
        for index in range(bins if magnitudes is not None else 1):
            magnitude = float(magnitudes[index]) if magnitudes is not None else 0.0
            for negative in (False, True) if signed else (False,):
                row = tables.row(name, magnitude, negative, 32, 32)
                views = images.clone()
                tables.run_(views, row.expand(4, -1), "nearest", 0.0)
                expected = [
                    torchvision_view(image, name, -magnitude if negative else magnitude) for image in images
                ]
                far = ((views - torch.stack(expected)).abs() > 1e-5).float().mean().item()
                # On a square picture's diagonal a turn by 45 degrees lies exactly between two pixels.
                if not (name == "rotate" and magnitude % 90 == 45):
                    assert far <= 0.002, f"{name} at {magnitude}: {far:.2%} of the values differ"
                differ.append(far)
    assert np.mean(differ) < 1e-3


# Draws.


def chosen_rows(name: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Tensor]:
    """(COUNT, COLUMNS) of each of the policy's turns, for COUNT pictures."""
    seen: list[Tensor] = []
    monkeypatch.setattr(policies, "run_", lambda images, chosen, *rest: seen.append(chosen))
    images = torch.zeros(COUNT, 1, SIDE, SIDE)
    AUGMENTS.spec({"name": name, **options}).build(images, Draws(0, 0, torch.arange(COUNT)))
    return seen


def numbers_of(rows: Tensor, table: Tensor) -> Tensor:
    """(N,) int64: the first row of `table` that equals each of `rows`."""
    return (rows[:, None, :] == table[None]).all(2).int().argmax(1)


def test_rand_augment_draws_operations_and_signs_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = chosen_rows("rand_augment", monkeypatch, num_operations=3, magnitude=9)
    assert len(turns) == 3
    table = policies.rand_rows(9, SIDE, SIDE)
    signed = torch.tensor([tables.OPERATIONS[name].signed for name in policies.OPERATION_NAMES])
    found = torch.stack([numbers_of(turn, table) for turn in turns])
    for turn in found:
        assert stats.chisquare(torch.bincount(turn // 2, minlength=14).numpy()).pvalue > 1e-3
        signs = torch.bincount(turn, minlength=28).view(14, 2)[signed]
        assert stats.chisquare(signs.flatten().numpy()).pvalue > 1e-3
    # One turn says nothing about the next.
    pairs = torch.bincount((found[0] // 2) * 14 + found[1] // 2, minlength=196)
    assert stats.chisquare(pairs.numpy()).pvalue > 1e-3


def test_trivial_augment_draws_operations_magnitudes_and_signs_evenly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (chosen,) = chosen_rows("trivial_augment_wide", monkeypatch)
    table = policies.trivial_rows(SIDE, SIDE)
    # Equal rows, as those of an unsigned operation, are counted together.
    _, groups = table.unique(dim=0, return_inverse=True)
    counts = np.bincount(groups[numbers_of(chosen, table)].numpy(), minlength=int(groups.max()) + 1)
    expected = np.bincount(groups.numpy()) * (COUNT / len(table))
    assert stats.chisquare(counts, expected).pvalue > 1e-3


def test_auto_augment_draws_policies_with_their_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = chosen_rows("auto_augment", monkeypatch)
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    kinds = torch.stack(turns)[:, :, 0].to(torch.int64)
    chances: dict[tuple[int, int], float] = {}
    kernels = {CAMEL[name]: operation.kernel for name, operation in tables.OPERATIONS.items()}
    for (first, p, _), (second, q, _) in policy._policies:
        for one, other, chance in (
            (kernels[first], kernels[second], p * q),
            (kernels[first], 0, p * (1 - q)),
            (0, kernels[second], (1 - p) * q),
            (0, 0, (1 - p) * (1 - q)),
        ):
            chances[one, other] = chances.get((one, other), 0.0) + chance / len(policy._policies)
    counts = {pair: int(((kinds[0] == pair[0]) & (kinds[1] == pair[1])).sum()) for pair in chances}
    assert sum(counts.values()) == COUNT
    likely = [pair for pair, chance in chances.items() if chance > 0]
    observed, expected = [counts[pair] for pair in likely], [chances[pair] * COUNT for pair in likely]
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-3


def features(views: Tensor, images: Tensor) -> dict[str, np.ndarray]:
    """What is compared, one number a picture."""
    change = (views - images).abs()
    return {
        "mean": views.mean((1, 2, 3)).numpy(),
        "spread": views.std((1, 2, 3)).numpy(),
        "change": change.mean((1, 2, 3)).numpy(),
        "largest change": change.amax((1, 2, 3)).numpy(),
        "edge": views[..., :4].mean((1, 2, 3)).numpy(),
    }


@pytest.mark.parametrize("options", [{}, {"severity": 10, "num_chains": 1, "all_operations": False}])
def test_aug_mix_is_distributed_as_torchvisions(options: dict[str, Any], real_pictures: np.ndarray) -> None:
    images = torch.from_numpy(real_pictures[:1000].transpose(0, 3, 1, 2).copy()).float() / 255
    names = {"num_chains": "mixture_width", "all_operations": "all_ops"}
    transform = v2.AugMix(**{names.get(name, name): value for name, value in options.items()})
    torch.manual_seed(0)
    theirs = features(torch.stack([transform(image) for image in images]), images)
    views = AUGMENTS.spec({"name": "aug_mix", **options}).build(
        images, Draws(0, 0, torch.arange(len(images)))
    )
    for what, numbers in features(views, images).items():
        assert stats.ks_2samp(numbers, theirs[what]).pvalue > 1e-3, what


def test_the_shares_of_aug_mix_sum_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "run_", lambda images, *rest: None)
    images = torch.rand(500, 3, 8, 8)
    for chains in (1, 2, 3, 10):
        views = AUGMENTS.spec({"name": "aug_mix", "num_chains": chains}).build(
            images, Draws(0, 0, torch.arange(500))
        )
        torch.testing.assert_close(views, images, rtol=0, atol=1e-6)


def test_the_shares_of_aug_mix_are_those_of_dirichlet(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def show_chain(images: Tensor, *rest: Any) -> None:
        # A chain has three turns, and its own channel here.
        images[:, len(calls) // 3] = 1.0
        calls.append(1)

    monkeypatch.setattr(policies, "run_", show_chain)
    shares = AUGMENTS.spec("aug_mix").build(torch.zeros(4000, 3, 4, 4), Draws(0, 0, torch.arange(4000)))
    numpy = np.random.default_rng(0)
    expected = numpy.dirichlet([1.0] * 3, 4000) * numpy.uniform(size=(4000, 1))
    for chain in range(3):
        found = shares[:, chain, 0, 0].numpy()
        assert stats.ks_2samp(found, expected[:, chain]).pvalue > 1e-3
    highest = shares[:, :, 0, 0].amax(1).numpy()
    assert stats.ks_2samp(highest, expected.max(1)).pvalue > 1e-3


def test_a_policy_is_its_rows_one_after_the_other() -> None:
    images, draws = torch.rand(200, 3, 16, 16), Draws(0, 0, torch.arange(200))
    found = AUGMENTS.spec({"name": "rand_augment", "num_operations": 3, "fill": 0.5}).build(
        images, draws.at("some")
    )
    table = policies.rand_rows(9, 16, 16)
    for i, places in enumerate(draws.at("some").integers(0, 28, shape=(3,))):
        view = images[i : i + 1].clone()
        for row in table[places]:
            tables.run_(view, row[None], "nearest", 0.5)
        assert torch.equal(found[i], view[0])


def test_a_table_is_marked_as_torch_marks_it_and_no_command_imports_the_compiler() -> None:
    def table() -> torch.Tensor:
        return torch.zeros(1)

    marked = vars(torch.compiler.assume_constant_result(table)).copy()
    assert marked
    assert marked.items() <= vars(policies._auto_table).items()
    code = "import sys, cifarlab.training.loop; print('torch._dynamo' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_a_compiled_policy_makes_the_same_views() -> None:
    images, indices = torch.rand(16, 3, 16, 16), torch.arange(16)
    for name in ("rand_augment", "auto_augment"):
        views = AUGMENTS.spec(name).bind()
        compiled = torch.compile(views, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(images, Draws(0, 0, indices)), views(images, Draws(0, 0, indices)))
