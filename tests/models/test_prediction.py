"""Pictures in any of the usual forms are the same picture, and what is none is refused in a line."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from cifarlab import ConfigError, load, predict
from cifarlab.models.prediction import read_picture
from tests.tiny import train_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("runs") / "tiny" / "0", "train.epochs=1")[0].folder


@pytest.fixture(scope="module")
def model(run):
    return load(run)


def forms(pixels: np.ndarray, path) -> dict:
    """One picture (H, W, 3) in every form."""
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    return {
        "path": path,
        "text": str(path),
        "PIL": Image.fromarray(pixels),
        "array": pixels,
        "array of another order": np.asfortranarray(pixels),
        "tensor": tensor,
        "contiguous tensor": tensor.contiguous(),
    }


@pytest.mark.parametrize("shape", [(32, 32), (50, 70), (9, 200)])
def test_every_form_of_a_picture_gives_the_same_answer(run, model, tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = {kind: model.predict(picture)[0] for kind, picture in forms(pixels, tmp_path / "a.png").items()}
    ours = found["path"]
    for kind, other in found.items():
        assert (other.classes, other.probabilities) == (ours.classes, ours.probabilities), kind
    assert ours.picture == str(tmp_path / "a.png")
    assert found["PIL"].picture is None
    (again,) = predict(run, tmp_path / "a.png")
    assert again == ours
    assert again.label == again.classes[0]
    assert list(ours.probabilities) == sorted(ours.probabilities, reverse=True)


def test_the_answer_is_the_models_own(model):
    images = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        probabilities = model(images).logits.softmax(-1)
    for batch in (images, images.float() / 255, images.permute(0, 2, 3, 1).numpy(), [*images]):
        found = model.predict(batch, top=100)
        assert len(found) == 70
        for one, own in zip(found, probabilities, strict=True):
            assert one.label == model.classes[own.argmax()]
            assert one.probabilities == pytest.approx(own.sort(descending=True)[0].tolist(), abs=1e-5)
            assert sum(one.probabilities) == pytest.approx(1, abs=1e-4)


def test_floats_are_resized_as_torchvision_does():
    picture = torch.rand(3, 60, 80)
    square = reference.center_crop(picture, [60, 60])
    ours = read_picture(picture, 32)
    assert torch.allclose(ours, reference.resize(square, [32, 32], antialias=True), atol=1e-5)


def test_a_model_in_training_predicts_in_evaluation_and_trains_on(model):
    model.train()
    try:
        one, other = (model.predict(torch.zeros(3, 32, 32))[0] for _ in range(2))
        assert model.training
        assert one == other
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (
            np.zeros((3, 32, 32), np.uint8),
            r"expected a numpy array \(H, W, 3\) .* got uint8 of shape \(3, 32",
        ),
        (np.zeros((32, 32, 3)), r"expected a numpy array .* got float64 of shape \(32, 32, 3\)"),
        (np.zeros((32, 32), np.uint8), r"got uint8 of shape \(32, 32\)"),
        (torch.zeros(32, 32, 3), r"expected a tensor \(3, H, W\) .* got float32 of shape \(32, 32, 3\)"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), r"got int64 of shape \(3, 32, 32\)"),
        (torch.zeros(1, 32, 32), r"got float32 of shape \(1, 32, 32\)"),
        (torch.full((3, 32, 32), 1.5), "got values from 1.5 to 1.5; the model normalises by itself"),
        (torch.full((3, 32, 32), -0.1), "got values from -0.1 to -0.1"),
        (torch.full((3, 32, 32), float("nan")), "got values from nan to nan"),
        (torch.zeros(3, 0, 32), r"of shape \(3, 0, 32\)"),
        (np.zeros((0, 5, 3), np.uint8), r"expected a numpy array .* got uint8 of shape \(0, 5, 3\)"),
        (Image.new("RGB", (0, 5)), "expected a PIL image of at least 1 x 1 pixels, got 0 x 5"),
        (3, "expected a file's path, a PIL image, .* got int"),
        ([None], "expected a file's path, a PIL image, .* got NoneType"),
        ("nowhere.png", "cannot read nowhere.png: No such file"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_line(model, picture, message):
    with pytest.raises(ConfigError, match=message) as caught:
        model.predict(picture)
    assert "\n" not in str(caught.value)


@given(
    shape=st.lists(st.integers(0, 5), max_size=5),
    dtype=st.sampled_from(["uint8", "int32", "float32", "float64", "bool", "complex64"]),
    kind=st.sampled_from([np.asarray, torch.as_tensor]),
)
@settings(max_examples=150, deadline=None)
def test_any_array_is_answered_or_refused(model, shape, dtype, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = kind(np.zeros(shape, dtype))
    try:
        found = model.predict(picture)
    except ConfigError as error:
        message = str(error)
    else:
        assert len(found) == (shape[0] if len(shape) == 4 else 1)
        return
    assert "expected" in message or "cannot read" in message


@pytest.mark.parametrize("options", [{"top": 0}, {"top": -1}, {"image_size": 0}])
def test_no_class_and_no_pixel_are_refused(model, options):
    with pytest.raises(ConfigError, match="at least 1"):
        model.predict(torch.zeros(3, 32, 32), **options)


def test_a_part_that_is_in_evaluation_stays_so(model):
    model.train()
    model.backbone.eval()
    try:
        model.predict(torch.zeros(3, 32, 32))
        assert model.training
        assert not model.backbone.training
    finally:
        model.eval()


def test_a_folder_stands_for_its_pictures_in_order(run, tmp_path):
    (tmp_path / "more").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), np.uint8)
    for name, picture in zip(("b.png", "more/a.png", "a.png"), pixels, strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    found = predict(run, [tmp_path, Image.fromarray(pixels[0])])
    assert [one.picture for one in found] == [
        *(str(tmp_path / name) for name in ("a.png", "b.png", "more/a.png")),
        None,
    ]
    assert found[1].probabilities == found[3].probabilities
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"no pictures in .*none"):
        predict(run, [tmp_path / "a.png", tmp_path / "none"])
