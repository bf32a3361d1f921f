from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifarlab.core.errors import ConfigError
from cifarlab.data.decoding import decode

pytestmark = pytest.mark.quick

RED, GREEN = (255, 0, 0), (0, 255, 0)


def test_cropped_and_resized() -> None:
    picture = Image.new("RGB", (90, 30), RED)
    picture.paste(GREEN, (30, 0, 60, 30))
    for image in (picture, picture.rotate(90, expand=True)):
        assert (decode(image, 10)[:, 2:-2, 2:-2].transpose(1, 2, 0) == GREEN).all()
    exact = np.random.default_rng(0).integers(0, 256, (32, 33, 3), dtype=np.uint8)
    assert (decode(Image.fromarray(exact), 32) == exact[:, :32].transpose(2, 0, 1)).all(), (
        "no pixel is touched"
    )
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(decode(Image.fromarray(stripes), 16)[..., 2:-2].astype(int) - 127).max() <= 2, "antialiased"
    assert decode(Image.new("RGB", (1, 50_000)), 8).shape == (3, 8, 8)
    assert decode(Image.new("RGB", (3, 2), RED), 64)[0].min() == 255


def test_modes(tmp_path: Path) -> None:
    def pixel(image: Image.Image, suffix: str | None = None, **options: Any) -> list[int]:
        if suffix is None:
            return decode(image, 8)[:, 4, 4].tolist()
        image.save(tmp_path / f"x{suffix}", **options)
        return decode(tmp_path / f"x{suffix}", 8)[:, 4, 4].tolist()

    size = (10, 10)
    assert pixel(Image.new("1", size, 1), ".png") == [255] * 3
    assert pixel(Image.new("L", size, 77), ".png") == [77] * 3
    assert pixel(Image.new("RGB", size, RED).convert("P"), ".gif") == [255, 0, 0]
    assert pixel(Image.new("RGBA", size, (255, 0, 0, 0)), ".png") == [255] * 3, "what is transparent is white"
    assert pixel(Image.new("RGBA", size, (0, 0, 0, 128)), ".webp", lossless=True) == [127] * 3
    assert pixel(Image.new("LA", size, (0, 0)), ".png") == [255] * 3
    assert pixel(Image.new("P", size, 0), ".png", transparency=0) == [255] * 3
    assert pixel(Image.new("L", size, 9), ".png", transparency=9) == [255] * 3
    assert np.allclose(pixel(Image.new("CMYK", size, (0, 255, 255, 0)), ".jpg"), [255, 0, 0], atol=3)
    assert pixel(Image.new("CMYK", size, (0, 255, 255, 0)), ".tif") == [255, 0, 0]
    assert pixel(Image.fromarray(np.full(size, 32896, np.uint16)), ".png") == [128] * 3
    assert pixel(Image.fromarray(np.full(size, 65535, np.uint16)), ".tif") == [255] * 3
    assert pixel(Image.fromarray(np.full(size, 65535, np.int32))) == [255] * 3
    assert pixel(Image.fromarray(np.full(size, 0.5, np.float32)), ".tif") == [128] * 3
    assert pixel(Image.fromarray(np.full(size, 90.2, np.float32))) == [90] * 3
    assert pixel(Image.new("HSV", size, (0, 255, 255))) == [255, 0, 0]
    frames = [Image.new("RGB", size, colour) for colour in (GREEN, RED)]
    assert pixel(frames[0], ".gif", save_all=True, append_images=frames[1:]) == [0, 255, 0]


def test_orientation(tmp_path: Path) -> None:
    picture = Image.new("RGB", (16, 16), RED)
    picture.paste(GREEN, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the top comes to the right
    picture.save(tmp_path / "x.png", exif=exif)
    turned = decode(tmp_path / "x.png", 16)
    assert turned[:, 8, 2].tolist() == list(RED)
    assert turned[:, 8, 13].tolist() == list(GREEN)


def test_large_jpegs_are_close_to_a_full_decode(tmp_path: Path) -> None:
    waves = (
        np.sin(np.arange(600) / 40)[:, None, None] * np.cos(np.arange(800) / 30)[None, :, None] * 120 + 128
    )
    Image.fromarray(np.broadcast_to(waves, (600, 800, 3)).astype(np.uint8)).save(
        tmp_path / "x.jpg", quality=95
    )
    with Image.open(tmp_path / "x.jpg") as image:
        full = decode(image.convert("RGB"), 32)
    assert np.abs(decode(tmp_path / "x.jpg", 32).astype(int) - full).mean() < 2


def test_decode_names_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"x\.png: not a picture"):
        decode(tmp_path / "x.png", 16)
    with pytest.raises(ConfigError, match="No such file"):
        decode(str(tmp_path / "none.png"), 16)


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for suffix in (".png", ".jpg", ".gif", ".webp", ".tif", ".bmp", ".tga", ".ico", ".jp2", ".pcx", ".ppm"):
        path = tmp_path / f"x{suffix}"
        picture.save(path)
        raw = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(25):
            damaged = raw.copy()
            damaged[rng.integers(0, min(len(raw), 200), 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            message = ""
            try:
                assert decode(path, 16).shape == (3, 16, 16)
            except ConfigError as error:
                message = str(error)
            assert not message or str(path) in message
