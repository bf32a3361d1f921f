"""Pipelines of the albumentations library as an augmentation, with a seed for each picture."""

from __future__ import annotations

import inspect
import json
import os
import random
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, ValidationError
from torch import Tensor

from cifarlab.core.errors import ConfigError, did_you_mean, explain, reason_of, unknown
from cifarlab.core.random import Draws
from cifarlab.core.reading import parse_yaml
from cifarlab.core.registries import AUGMENTS

# Base classes, and transforms that take functions or return more than a picture.
_NO_TRANSFORMS = (
    "BaseCompose", "BasicTransform", "DualTransform", "ImageOnlyTransform", "Lambda", "ReplayCompose",
    "Transform3D",
)  # fmt: skip
# The key under which `albumentations.save` writes the name of a transform.
_SAVED = "__class_fullname__"


def _library() -> Any:
    # Otherwise the library asks the package index for a newer version when it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    try:
        import albumentations
    except ImportError as error:
        raise ConfigError(f"{error}; pip install 'cifarlab[albumentations]'") from None
    return albumentations


# A transform as a recipe gives it: its name, and its options by name.
Entry = dict[str, dict[str, Any]]


def _kinds() -> dict[str, type]:
    """Return the library's classes of transforms and compositions, by name."""
    library = _library()
    bases = library.BasicTransform, library.BaseCompose
    return {
        name: kind
        for name, kind in vars(library).items()
        if isinstance(kind, type) and issubclass(kind, bases) and name not in _NO_TRANSFORMS
    }


def _read(value: Any) -> Any:
    """Return the value, or the content of a YAML file it names."""
    if not isinstance(value, str):
        return value
    path = Path(value).expanduser().absolute()
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {reason_of(error)}") from None
    # `albumentations.save` writes a single composition under this key.
    return [content["transform"]] if isinstance(content, Mapping) and "transform" in content else content


def _plain(value: Any, path: tuple[str, ...] = ()) -> list[Entry]:
    """Bring a list of transforms into the form `[{Name: options}, ...]`.

    Lists inside compositions are brought into the same form.
    """
    if not isinstance(value, list) or not value:
        raise ConfigError(f"expected a list of transforms, `Name: options` each; got {value!r}", path)
    return [_entry(entry, (*path, str(place))) for place, entry in enumerate(value)]


def _entry(entry: Any, path: tuple[str, ...]) -> Entry:
    """Bring one transform into the form `{Name: options}`."""
    if isinstance(entry, Mapping) and _SAVED in entry:
        entry = {entry[_SAVED]: {key: option for key, option in entry.items() if key != _SAVED}}
    if isinstance(entry, str):
        entry = {entry: {}}
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise ConfigError(f"expected one transform, `Name: options`; got {entry!r}", path)
    ((name, options),) = entry.items()
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise ConfigError(f"expected `key: value` options, got {options!r}", (*path, str(name)))
    if "transforms" in options:
        inner = _plain(options["transforms"], (*path, str(name), "transforms"))
        options = {**options, "transforms": inner}
    return {str(name): dict(options)}


def _built(entry: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Build a transform; raise ConfigError with the path of an invalid option."""
    ((name, options),) = entry.items()
    kinds = _kinds()
    if name not in kinds:
        hint = did_you_mean(name, kinds)
        raise ConfigError(f"albumentations has no transform {name!r}" + (f"; {hint}" if hint else ""), path)
    kind, path = kinds[name], (*path, name)
    known = list(inspect.signature(kind.__init__).parameters)[1:]
    for key in options:
        if key not in known:
            raise ConfigError(unknown(key, known), (*path, key))
    if "transforms" in options:
        inside = (*path, "transforms")
        inner = [_built(one, (*inside, str(i))) for i, one in enumerate(options["transforms"])]
        options = {**options, "transforms": inner}
    p = options.get("p", 0)
    if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
        raise ConfigError(f"a probability must be from 0 to 1, got {p!r}", (*path, "p"))
    # Without `strict` the library only warns of some mistakes and uses its defaults.
    strict = {"strict": True} if "InitSchema" in vars(kind) else {}
    try:
        built = kind(**options, **strict)
    except (TypeError, ValueError) as error:
        if isinstance(cause := error.__cause__, ValidationError):
            found = explain(cause, lambda _: known)
            # Deeper parts of the path name the types that the option may have.
            raise ConfigError(found.message, (*path, *found.path[:1])) from None
        raise ConfigError(" ".join(str(error).split()), path) from None
    if missing := {*getattr(built, "targets_as_params", ())} - {"image"}:
        raise ConfigError(f"needs {', '.join(sorted(missing))}, not only pictures; remove it", path)
    return built


def _pipeline(transforms: list[Entry]) -> Any:
    return _library().Compose([_built(entry, (str(place),)) for place, entry in enumerate(transforms)])


def _checked(transforms: list[Entry]) -> list[Entry]:
    _pipeline(transforms)
    return transforms


@lru_cache
def _cached(transforms: str) -> Any:
    return _pipeline(json.loads(transforms))


Transforms = Annotated[
    list[Entry],
    AfterValidator(_checked),
    BeforeValidator(_plain),
    BeforeValidator(_read),
]


def _views(pictures: np.ndarray, pipeline: Any, seeds: list[int]) -> Iterator[np.ndarray]:
    for picture, seed in zip(pictures, seeds, strict=True):
        # Not `set_random_seed`: it gives all transforms one seed, so that two transforms of equal p either
        # both run or both do not.
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        view = pipeline(image=picture)["image"]
        if view.shape != picture.shape or view.dtype != picture.dtype:
            raise ConfigError(
                f"data.augment: albumentations' pipeline gives {tuple(view.shape)} {view.dtype} for pictures "
                f"of {picture.shape} uint8; remove what resizes, crops or converts, e.g. ToTensorV2"
            )
        yield view


@AUGMENTS.register
def albumentations(images: Tensor, draws: Draws, *, transforms: Transforms) -> Tensor:
    """Any pipeline of the library albumentations (Buslaev et al., 2020).

    It needs `pip install 'cifarlab[albumentations]'`. Pictures are first rounded to 8 bits. Each picture has
    its own seed, so that the result for a picture does not depend on other pictures or earlier batches.

    A pipeline is slow compared with this package's own augmentations. Pictures are changed on the CPU, one
    after the other, in the training process. With a GPU, every batch is copied to the host and back.
    `benchmarks/augment.py` measures the cost.

    Args:
        transforms: List of the library's transforms in order, each by name with its options, such as
            `[{HorizontalFlip: {p: 0.5}}, {OneOf: {transforms: [...]}}]`. It may also be the name of a YAML
            file that holds such a list or that `albumentations.save` wrote. The content of the file is saved
            with the run. Most transforms of the library have a `p` of 0.5 unless their options say otherwise.

    Raises:
        ConfigError: If the pipeline changes the size or the type of a picture.
    """
    seeds = (draws.bits() & (2**63 - 1)).tolist()
    pictures = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    found = np.empty_like(pictures)
    for place, view in enumerate(_views(pictures, _cached(json.dumps(transforms)), seeds)):
        found[place] = view
    return torch.from_numpy(found).permute(0, 3, 1, 2).contiguous().to(images.device).float() / 255
