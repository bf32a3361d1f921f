"""Test-time augmentation: views written out by hand, one answer for a picture and its mirror."""

from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import softmax
from torch import nn

from cifarlab.commands.shared import MeanName
from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError
from cifarlab.evaluation.tta import MEANS, TTA, Augmented, parse, shift
from cifarlab.models.classifier import Classifier
from cifarlab.runs.model import build_for_loading
from tests.tiny import tiny_config

pytestmark = pytest.mark.quick


class Head(nn.Module):
    """A linear layer for pictures of 32 px."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 7)

    def forward(self, features):
        return Output(self.linear(features), features)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_for_loading(tiny_config().model, 32, [*"abcdefg"]).eval()


@pytest.fixture(scope="module")
def pictures():
    return torch.randint(
        0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )


def said(model, pictures, text, mean="logits", size=32):
    with torch.inference_mode():
        return Augmented(model, parse(text), size, "tiny", mean=mean).eval()(pictures, size).logits


EVERY = [*TTA, "{name: multi_crop, pixels: 3}", "{name: sizes, scales: [0.5, 1, 2]}"]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("text", EVERY)
def test_a_picture_and_its_mirror_get_one_answer(model, pictures, text, mean):
    one, other = said(model, pictures, text, mean), said(model, pictures.flip(-1), text, mean)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        assert not torch.allclose(model(pictures).logits, model(pictures.flip(-1)).logits, atol=1e-3)


@pytest.mark.parametrize("text", EVERY)
def test_views_are_answered_one_by_one(model, pictures, text):
    views = parse(text).bind()(pictures, 32)
    with torch.inference_mode():
        logits = np.stack([model(view, size).logits.numpy() for view, size in views])
    np.testing.assert_allclose(said(model, pictures, text), logits.mean(0), atol=1e-5)
    found = said(model, pictures, text, "probabilities").softmax(-1)
    np.testing.assert_allclose(found, softmax(logits, axis=-1).mean(0), atol=1e-6)
    assert Augmented(model, parse(text), 32, "tiny").passes == len(views)


def test_the_means_of_answers_that_differ():
    """Answers that are far apart, each with a constant of its own on its logits, which says nothing."""
    numbers = np.random.default_rng(0)
    logits = numbers.normal(size=(3, 5, 7)) * 4 + numbers.normal(size=(3, 1, 1)) * 9
    mean = MEANS["probabilities"](torch.from_numpy(logits))
    np.testing.assert_allclose(mean.exp(), softmax(logits, axis=-1).mean(0), rtol=1e-9)
    np.testing.assert_allclose(MEANS["logits"](torch.from_numpy(logits)), logits.mean(0))


def test_the_views_are_those_of_their_names(pictures):
    flip = TTA.spec("flip").bind()(pictures, 32)
    assert [size for _, size in flip] == [32, 32]
    assert torch.equal(flip[1][0], torch.from_numpy(pictures.numpy()[..., ::-1].copy()))
    ten = TTA.spec({"name": "multi_crop", "pixels": 2}).bind()(pictures, 32)
    assert len(ten) == 18
    padded = F.pad(pictures.float(), (2,) * 4, mode="reflect").to(torch.uint8)
    crops = {
        padded[..., 2 + y : 34 + y, 2 + x : 34 + x].numpy().tobytes()
        for y in range(-2, 3)
        for x in range(-2, 3)
        if abs(y) == abs(x)
    }
    plain = [view for view, _ in ten if view.contiguous().numpy().tobytes() in crops]
    assert len(crops) == len(plain) == 9
    assert [size for _, size in TTA.spec("sizes").bind()(pictures, 32)] == [28, 28, 32, 32, 36, 36]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -2), (-7, 7), (1, 0)])
def test_a_shift_is_torchs_reflection(pictures, down, right):
    padded = F.pad(pictures.float(), (8,) * 4, mode="reflect")
    expected = padded[..., 8 - down : 40 - down, 8 - right : 40 - right]
    assert torch.equal(shift(pictures, down, right).float(), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flipp", "tta: unknown test-time augmentation 'flipp'; did you mean flip?"),
        ("{name: multi_crop, pixel: 2}", "tta.pixel: unknown; did you mean pixels?"),
        ("{name: multi_crop, pixels: 0}", "tta.pixels: "),
        ("{name: sizes, scales: []}", "tta.scales: "),
        ("{name: ", "tta: '{name: ': not YAML"),
        ("{name: flip, name: flip}", "tta: '{name: flip, name: flip}': name is given twice"),
    ],
)
def test_a_mistake_is_named(text, message):
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert message in str(error.value)


def test_what_cannot_be_answered_is_refused(model):
    rigid = Classifier(nn.Flatten(), Head(), image_size=32, mean=(0,) * 3, std=(1,) * 3, classes=7)
    Augmented(rigid, parse("flip"), 32, "rigid")
    with pytest.raises(ConfigError, match=r"tta: rigid .*28"):
        Augmented(rigid, parse("sizes"), 32, "rigid")
    with pytest.raises(ConfigError, match="mean: logit: unknown; did you mean logits"):
        Augmented(model, parse("flip"), 32, "tiny", mean="logit")


def test_the_command_line_knows_every_mean():
    assert {*get_args(MeanName)} == {*MEANS}
