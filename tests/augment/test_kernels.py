"""Augmentations that are registered through `lowers`."""

from cifarlab.config.imports import import_parts, module_of
from cifarlab.config.reference import reference_pages
from cifarlab.core.registries import AUGMENTS

CODE = """
import torch

from cifarlab.augment import Lowered, lowers


@lowers
def {name}(images, draws):
    \"\"\"Negate.\"\"\"
    return Lowered(torch.neg, ())
"""


def test_the_part_of_a_users_file_is_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(AUGMENTS, "_parts", dict(AUGMENTS._parts))
    path = tmp_path / "mine.py"
    path.write_text(CODE.format(name="one"))
    import_parts([str(path)])
    assert AUGMENTS["one"].module == module_of(str(path))
    assert AUGMENTS["crop"].module == "cifarlab.augment.geometry"
    assert "### `one`" not in reference_pages()["parts.md"]
    path.write_text(CODE.format(name="other"))
    import_parts([str(path)])
    assert "other" in AUGMENTS
    assert "one" not in AUGMENTS
