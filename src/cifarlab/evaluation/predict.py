"""Predictions: the most probable classes of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from cifarlab.core.errors import ConfigError
from cifarlab.data.decoding import suffixes
from cifarlab.evaluation.score import asked_image_size
from cifarlab.models.prediction import Picture, Prediction, as_pictures
from cifarlab.runs.folder import Run
from cifarlab.runs.model import load_trained


def pictures_in(paths: Iterable[Path | str]) -> list[Path]:
    """List the named picture files, and those below the named folders.

    Below a folder, hidden files and folders are skipped.

    Args:
        paths: Files and folders.

    Raises:
        ConfigError: A path does not exist, or there are no pictures.
    """
    found: list[Path] = []
    given = [Path(path) for path in paths]
    for path in given:
        if path.is_dir():
            found += sorted(below for below in path.rglob("*") if _is_picture(below, path))
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"{path}: no such file or folder")
    if not given:
        raise ConfigError("no pictures were given; name files or folders")
    if not found:
        raise ConfigError(f"no pictures in {', '.join(map(str, given))}")
    return found


def _is_picture(path: Path, folder: Path) -> bool:
    """Tell whether a path below `folder` is a picture file.

    A broken link counts as one, so that it is reported as unreadable.
    """
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    is_file = path.is_file() or (path.is_symlink() and not path.exists())
    return is_file and not hidden and path.suffix.lower() in suffixes()


def predict(
    run: Run | Path | str,
    pictures: Picture | Iterable[Picture],
    *,
    top: int = 5,
    device: str = "auto",
    image_size: int | None = None,
    imports: Sequence[Path | str] = (),
) -> list[Prediction]:
    """Predict the most probable classes of pictures by a run's model.

    It is the model of the epoch that `train.select` chose.

    Args:
        run: The run, its folder, or its best.pt.
        pictures: One picture or several. Each is a file's path, a folder (all pictures below it), a PIL
            image, a numpy array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 or of floats in [0, 1]. Or
            a batch in one array or tensor.
        top: Number of classes returned for each picture.
        device: auto, cpu, cuda or cuda:1.
        image_size: Side length of the model's input in pixels. Default: the run's own.
        imports: Python files or modules that register the run's custom parts.

    Returns:
        One `Prediction` for each picture, in their order. The pictures of a folder are sorted by path.

    Raises:
        ConfigError: The run cannot be loaded, a picture cannot be read, a folder holds no pictures, or the
            model cannot take the size.

    Example:
        >>> run = cifarlab.train("demo", {"train.epochs": 2})
        >>> first, *others = cifarlab.predict(run, ["cat.jpg", "holiday/"], top=3)
        >>> first.picture, len(first.classes)
        ('cat.jpg', 3)
        >>> first.label == first.classes[0]
        True
    """
    given = as_pictures(pictures)
    found: list[Picture] = []
    for picture in given:
        found += pictures_in([picture]) if isinstance(picture, str | Path) else [picture]
    trained = load_trained(run, device=device, imports=imports)
    return trained.model.predict(found, top=top, image_size=asked_image_size(trained, image_size))
