"""Which files are taken for pictures."""

import pytest

from cifarlab.core.errors import ConfigError
from cifarlab.evaluation.predict import pictures_in

pytestmark = pytest.mark.quick


def test_the_pictures_below_a_folder(tmp_path):
    for name in ("b.png", "deep/er/a.JPG", ".hidden/a.jpg", "deep/.c.png", "notes.txt", "set.png/d.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    names = [path.relative_to(tmp_path).as_posix() for path in pictures_in([tmp_path])]
    # One that a link cannot reach is no picture, which a reader of it will say.
    assert names == ["b.png", "deep/er/a.JPG", "gone.png", "set.png/d.webp"]
    assert pictures_in([tmp_path / ".hidden"]) == [tmp_path / ".hidden" / "a.jpg"]


def test_places_without_pictures_are_named(tmp_path):
    with pytest.raises(ConfigError, match=f"no pictures in {tmp_path}$"):
        pictures_in(path for path in [tmp_path])
    with pytest.raises(ConfigError, match="no pictures were given"):
        pictures_in([])
