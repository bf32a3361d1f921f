"""Which picture is trained on at which size, and the answers put back in order."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import LOSSES
from cifarlab.models.classifier import Classifier
from cifarlab.models.heads import Linear, Margin
from cifarlab.models.sizes import (
    check_sizes,
    forward_at_sizes,
    size_groups,
    size_of_stage,
    size_of_step,
    sizes_of_batch,
)
from tests.gpu import sync_is_an_error
from tests.tiny import tiny_config

pytestmark = pytest.mark.quick

SIZES = st.lists(st.integers(8, 300), min_size=1, max_size=6, unique=True)


def forward(model, images, config, epoch, step, total_steps, place):
    """What a training step asks the model."""
    sizes = sizes_of_batch(config, len(images), epoch, step, total_steps, place)
    return forward_at_sizes(model, images, sizes)


def sizes_of(sizes, place, count, epoch):
    """[size of each of a batch's pictures], each of which must be there once."""
    found = [0] * count
    for size, parts in size_groups(sizes, place, count, epoch).items():
        for row in (row for part in parts for row in part):
            assert found[row] == 0
            found[row] = size
    assert all(found)
    return found


@given(SIZES, st.integers(0, 1000), st.integers(1, 60), st.integers(0, 300))
def test_every_picture_is_in_one_group_and_none_is_alone(sizes, place, count, epoch):
    found = sizes_of(sizes, place, count, epoch)
    assert set(found) <= {*sizes}
    assert count == 1 or all(found.count(size) > 1 for size in {*found})


@given(SIZES, st.integers(2, 20), st.integers(2, 20), st.integers(1, 8), st.integers(0, 300))
def test_sizes_do_not_depend_on_the_batch_size_or_on_where_a_run_goes_on(sizes, one, other, batches, epoch):
    """But for a picture that would be alone: batches of at least 2 n have none."""
    num = len(sizes)
    one, other = one * num, other * num
    total = one * other * batches

    def epoch_of(batch):
        return [size for at in range(0, total, batch) for size in sizes_of(sizes, at, batch, epoch)]

    found = epoch_of(one)
    assert found == epoch_of(other)
    assert found == [sizes[(place + epoch) % num] for place in range(total)]
    assert all(found.count(size) * num == total for size in sizes), "exact shares"
    assert found[one:] == [s for at in range(one, total, one) for s in sizes_of(sizes, at, one, epoch)]


@given(SIZES, st.integers(0, 100), st.integers(0, 50))
def test_in_an_order_that_stays_each_picture_takes_the_sizes_in_turn(sizes, place, epoch):
    count = 2 * len(sizes)
    found = [sizes_of(sizes, place, count, epoch + later) for later in range(len(sizes))]
    assert all({*of_one} == {*sizes} for of_one in zip(*found, strict=True))


def test_a_lone_picture_joins_the_next_sizes_group():
    assert sizes_of([32, 64], 0, 3, 0) == [32, 32, 32]
    assert sizes_of([32, 64], 0, 3, 1) == [64, 64, 64]
    assert sizes_of([16, 32, 64], 0, 5, 0) == [16, 32, 16, 16, 32]
    assert sizes_of([16, 32, 64], 0, 2, 0) == [32, 32]
    assert sizes_of([16, 32, 64], 4, 1, 0) == [32], "a batch of one picture has no other group to join"


def test_the_sizes_of_steps_stay_what_they_were():
    """Runs that were started by another version resume with the sizes that they would have had."""
    assert [size_of_step((32, 64), 0, step) for step in range(10)] == [
        32, 32, 32, 32, 64, 64, 32, 32, 64, 64,
    ]  # fmt: skip


def test_steps_share_the_sizes_evenly_and_seeds_differ():
    """3000 draws: each size within five standard deviations of a third; neighbours are independent."""
    drawn = [size_of_step([32, 48, 64], 0, step) for step in range(3000)]
    spread = 5 * (3000 * 2 / 9) ** 0.5
    assert all(abs(drawn.count(size) - 1000) < spread for size in (32, 48, 64))
    equal = sum(a == b for a, b in pairwise(drawn))
    assert abs(equal - 1000) < spread
    assert drawn != [size_of_step([32, 48, 64], 1, step) for step in range(3000)]


class Convolution(nn.Module):
    """A backbone without a size of its own, in which batch norm takes part."""

    num_features = 8

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, images):
        return self.norm(self.conv(images)).relu().mean((2, 3))


def classifier(head: nn.Module) -> Classifier:
    return Classifier(Convolution(), head, image_size=16, mean=(0.5,) * 3, std=(0.2,) * 3, classes=5)


@pytest.mark.parametrize("head", [Linear, Margin])
@pytest.mark.parametrize(("sizes", "count"), [((8, 16), 10), ((16, 8, 24), 11), ((8, 16), 3), ((8,), 4)])
def test_answers_come_back_in_order(head, sizes, count):
    """As one by one, each picture at its size."""
    model = classifier(head(8, 5)).eval()
    images, epoch, place = torch.rand(count, 3, 12, 12), 4, 7
    scale = f"data.multi_scale={{sizes: {[*sizes]}, per: sample}}"
    output = forward(model, images, tiny_config(scale), epoch, 0, 1, place)
    each = [
        model(image[None], size)
        for image, size in zip(images, sizes_of(sizes, place, count, epoch), strict=True)
    ]
    for key in ("logits", "embedding", *(("cosines",) if head is Margin else ())):
        torch.testing.assert_close(getattr(output, key), torch.cat([getattr(one, key) for one in each]))
    assert output.scale == each[0].scale
    if output.cosines is not None:
        torch.testing.assert_close(output.logits, output.scale * output.cosines)
        assert output.weight is model.head.weight


def test_gradients_reach_the_picture_that_an_answer_is_of():
    model, images = classifier(Linear(8, 5)).eval(), torch.rand(6, 3, 12, 12, requires_grad=True)
    output = forward(model, images, tiny_config("data.multi_scale={sizes: [8, 16], per: sample}"), 0, 0, 1, 0)
    output.logits[3].sum().backward()
    assert images.grad is not None
    assert [row for row in range(6) if images.grad[row].any()] == [3]


def test_batch_norm_sees_each_size_as_a_batch_of_its_own():
    """Running statistics after one step are those of two calls, one a size."""
    torch.manual_seed(0)
    model, twin = classifier(Linear(8, 5)).train(), classifier(Linear(8, 5)).train()
    twin.load_state_dict(model.state_dict())
    images = torch.rand(8, 3, 12, 12)
    forward(model, images, tiny_config("data.multi_scale={sizes: [8, 16], per: sample}"), 1, 0, 1, 0)
    twin(images[1::2], 8), twin(images[0::2], 16)
    for ours, theirs in zip(model.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_batch_at_one_size_is_one_call():
    model, images = classifier(Linear(8, 5)).eval(), torch.rand(6, 3, 12, 12)
    config = tiny_config("data.multi_scale={sizes: [8, 24]}", "train.seed=3")
    drawn = [size_of_step((8, 24), 3, step) for step in range(4)]
    assert {*drawn} == {8, 24}
    for step, size in enumerate(drawn):
        output = forward(model, images, config, 0, step, 4, 0)
        assert torch.equal(output.logits, model(images, size).logits)
    plain = forward(model, images, tiny_config(), 0, 0, 1, 0)
    assert torch.equal(plain.logits, model(images, 16).logits)


@given(SIZES, st.integers(1, 60))
def test_the_stages_are_numpys_equal_parts(sizes, steps_each):
    total = steps_each * len(sizes)
    parts = np.array_split(np.arange(total), len(sizes))
    found = [size_of_stage(sizes, step, total) for step in range(total)]
    assert found == [size for size, part in zip(sizes, parts, strict=True) for _ in part]


@given(SIZES, st.integers(1, 300))
def test_a_stage_is_at_most_a_step_longer_than_another(sizes, total):
    found = [size_of_stage(sizes, step, total) for step in range(total)]
    assert [sizes.index(size) for size in found] == sorted(sizes.index(size) for size in found)
    assert all(abs(found.count(size) - total / len(sizes)) < 1 for size in sizes)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 40))
def test_a_stage_lasts_for_its_share_of_the_steps(parts, times):
    total = sum(parts) * times
    shares = [part / sum(parts) for part in parts]
    found = [size_of_stage(range(len(parts)), step, total, shares=shares) for step in range(total)]
    assert found == [stage for stage, part in enumerate(parts) for _ in range(part * times)]


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("{sizes: [16, 24], per: batch, shares: [0.5, 0.5]}", "needs per: stage, and this is per: batch"),
        ("{sizes: [16, 24], per: stage, shares: [0.5, 0.4]}", "expected 2 shares .* that sum to 1"),
        ("{sizes: [16, 24], per: stage, shares: [1]}", "expected 2 shares .* that sum to 1"),
        ("{sizes: [16, 24], per: stage, shares: [1, 0]}", "greater than 0"),
    ],
)
def test_shares_that_are_refused(scale, message):
    with pytest.raises(ConfigError, match=message) as caught:
        tiny_config(f"data.multi_scale={scale}")
    assert caught.value.path[:3] == ("data", "multi_scale", "shares")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_answers_without_being_waited_for():
    model, images = classifier(Linear(8, 5)).eval(), torch.rand(11, 3, 12, 12)
    config = tiny_config("data.multi_scale={sizes: [16, 8, 24], per: sample}")
    expected = forward(model, images, config, 4, 0, 1, 7).logits
    model, images = model.cuda(), images.cuda()
    with sync_is_an_error():
        logits = forward(model, images, config, 4, 0, 1, 7).logits
    torch.testing.assert_close(logits.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_feature_maps_of_several_sizes_are_refused(monkeypatch):
    monkeypatch.setattr(LOSSES, "_parts", dict(LOSSES._parts))

    @LOSSES.register(needs_teacher="stages")
    def needs_maps(batch, output):
        return output.stages[0].mean()

    def lesson(scale):
        return tiny_config("objective.needs_maps={}", "teacher.run=demo", f"data.multi_scale={scale}")

    with pytest.raises(ConfigError, match=r"^data.multi_scale.per: .*set data.multi_scale.per=batch$"):
        lesson("{sizes: [24, 32], per: sample}")
    for scale in ("{sizes: [24, 32], per: batch}", "{sizes: [24], per: sample}"):
        assert lesson(scale).teacher_outputs == {"stages"}


def test_sizes_that_a_backbone_cannot_take():
    class Fixed(Convolution):
        def forward(self, images):
            if images.shape[-1] == 24:
                return super().forward(images) / 0
            return super().forward(images[..., :16, :16].reshape(len(images), 3, 16, 16))

    model = classifier(Linear(8, 5)).train()
    model.backbone = Fixed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_sizes(model, "fixed", (16, 32), ("here",))
    with pytest.raises(ConfigError, match=r"^here: fixed cannot take pictures of 8 px \(shape .*\)$"):
        check_sizes(model, "fixed", (16, 8), ("here",))
    with pytest.raises(ConfigError, match=r"fixed cannot take pictures of 24 px \(its logits are not finite"):
        check_sizes(model, "fixed", (24,), ("here",))
    assert model.training, "the mode is restored"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
