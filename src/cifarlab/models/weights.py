"""Loading of weights from files, with a check of every name in the file and in the module."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifarlab.core.checkpoints import best_in
from cifarlab.core.errors import ConfigError, reason_of

StateDict = Mapping[str, Tensor]
HEAD_IS_NEW = "the head is newly initialised"
# The share of a file's numbers that the module may lack. That allows a mask token or a counter, but not a
# layer: a ResNet-34's file has every name and shape of a ResNet-18, and half of it would be unused.
_SPARE = 0.01


@dataclass(frozen=True)
class LoadReport:
    """The result of loading a file's weights into a module.

    Attributes:
        source: The file.
        sha256: SHA-256 of the file.
        loaded: Number of tensors that were loaded.
        left: {name: reason} for each tensor of the file that was not used.
        fresh: {name: reason} for each tensor of the module that kept its value.
    """

    source: str
    sha256: str
    loaded: int
    left: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return one line for the terminal."""
        skipped = {name: why for name, why in self.left.items() if self.fresh.get(name) != why}
        sides = (("skipped", skipped), ("not loaded", self.fresh))
        notes = [
            f"{word} {_names(names)}: {why}"
            for word, what in sides
            for why, names in _by_reason(what).items()
        ]
        return "; ".join([f"{self.source} (sha256 {self.sha256[:12]}): {self.loaded} tensors loaded", *notes])


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, why in reasons.items():
        grouped.setdefault(why, []).append(name)
    return grouped


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Read a safetensors or PyTorch file; return its state dict and sha256.

    No code in the file can run. The state dict may be under the key `model` or `state_dict`, or under
    `engine` and in it `model`, as in a run's last.pt. A prefix `module.` of all names is removed.

    Raises:
        ConfigError: The file is missing, incomplete or of another kind. The message names it.
    """
    path = Path(path).expanduser()
    content, sha256 = _read(path)
    return _state_of(content, path), sha256


def _read(path: Path) -> tuple[Any, str]:
    """Return the content of a file of weights, and its sha256."""
    if not path.is_file():
        raise ConfigError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), sha256
        return torch.load(path, map_location="cpu", weights_only=True), sha256
    except Exception as error:  # a broken file may raise zip, pickle, struct, key, memory or other errors
        reason = reason_of(error)
        raise ConfigError(f"{path}: cannot be read as weights, or is cut off ({reason})") from None


def _state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside the content of a file."""
    for key in ("engine", "model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not _is_state(content):
        raise ConfigError(f"{path}: holds no state dict of tensors")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _is_state(content: Any) -> bool:
    if not isinstance(content, Mapping) or not content:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def backbone_of(state: StateDict) -> dict[str, Tensor]:
    """Return the `backbone.` part of a `Classifier`'s state dict, without that prefix.

    Any other state dict is returned unchanged.
    """
    own = {name[9:]: value for name, value in state.items() if name.startswith("backbone.")}
    return own or dict(state)


def load_weights(
    module: nn.Module,
    state: StateDict,
    *,
    source: str,
    sha256: str = "",
    free: Mapping[str, str] | None = None,
) -> LoadReport:
    """Copy a state dict into a module, and check every name.

    Args:
        module: The module, changed in place.
        state: The state dict.
        source: File or other origin of the state dict, for messages.
        sha256: SHA-256 of the file, for the report.
        free: {prefix: reason}. Names with these prefixes may be missing in the state dict or in the module,
            or differ in shape. The reason stands in the report.

    Raises:
        ConfigError: A tensor of the module is missing in the state dict or has another shape there, although
            no prefix in `free` matches; or more than 1 % of the values in the state dict belong to names that
            neither the module nor `free` has. Then the module is unchanged.
    """
    own = module.state_dict()
    left: dict[str, str] = {}
    fresh: dict[str, str] = {}
    wrong: list[str] = []
    for name in own.keys() | state.keys():
        why = excuse(name, free or {})
        if name not in state:
            if name.endswith("num_batches_tracked"):
                fresh[name] = "a counter that older files do not have"
            elif why is not None:
                fresh[name] = why
            else:
                wrong.append(f"{name} is missing")
        elif name not in own:
            left[name] = "not in the module" if why is None else why
        elif own[name].shape != state[name].shape:
            shapes = f"shape {list(state[name].shape)} in the file, {list(own[name].shape)} in the module"
            if why is None:
                wrong.append(f"{name} has {shapes}")
            else:
                left[name], fresh[name] = shapes, why
    spare = [name for name in left if name not in own and excuse(name, free or {}) is None]
    if sum(state[name].numel() for name in spare) > _SPARE * sum(value.numel() for value in state.values()):
        wrong.extend(f"{name} is not in the module" for name in spare)
    if wrong:
        wrong.sort()
        more = f"; {len(wrong) - 1} more such names" if len(wrong) > 1 else ""
        raise ConfigError(f"{source} does not match the module: {wrong[0]}{more}")
    used = {name: value for name, value in state.items() if name in own and name not in left}
    module.load_state_dict(used, strict=False)  # not strict: each name was checked above
    return LoadReport(source, sha256, len(used), dict(sorted(left.items())), dict(sorted(fresh.items())))


def excuse(name: str, free: Mapping[str, str]) -> str | None:
    """Return why a tensor may be missing or differ, or None.

    `free` is {prefix: reason}, as in `load_weights`. The first prefix that fits `name` counts.
    """
    return next((why for prefix, why in free.items() if f"{name}.".startswith(f"{prefix}.")), None)


def init_from(classifier: nn.Module, path: str | Path) -> LoadReport:
    """Load weights into a `Classifier` from a run's folder or a checkpoint.

    In a folder, best.pt is read. The head keeps its initial weights if the checkpoint's head has other
    tensors or other classes. Normalisation and picture size stay those of the recipe.

    Raises:
        ConfigError: The weights cannot be read or do not fit. The error's path is `model.init`.
    """
    path = Path(path).expanduser()
    try:
        if not path.exists():
            raise ConfigError(
                f"{path}: no such file; name a run's folder, runs/<name>/<seed>, or a checkpoint"
            )
        path = best_in(path) if path.is_dir() else path
        content, sha256 = _read(path)
        state = _state_of(content, path)
        if not any(name.startswith("backbone.") for name in state):
            raise ConfigError(f"{path} is no checkpoint of cifarlab; set model.backbone.pretrained={path}")
        own = classifier.state_dict()
        head = [name for name in own.keys() | state.keys() if name.startswith("head.")]
        same_head = all(n in own and n in state and own[n].shape == state[n].shape for n in head)
        # best.pt names its classes. Weights for equally many other classes do not suit the head.
        theirs, ours = content.get("classes"), getattr(classifier, "classes", None)
        same_head = same_head and (theirs is None or ours is None or tuple(theirs) == tuple(ours))
        free: dict[str, str] = dict.fromkeys(("mean", "std"), "taken from the recipe")
        if not same_head:
            free["head"] = HEAD_IS_NEW
        # Excused parts are left out completely: half of an old head would be worse than a new head.
        skipped = {name: why for name in sorted(state) if (why := excuse(name, free)) is not None}
        state = {name: value for name, value in state.items() if name not in skipped}
        report = load_weights(classifier, state, source=str(path), sha256=sha256, free=free)
        return replace(report, left=dict(sorted({**report.left, **skipped}.items())))
    except ConfigError as error:
        raise ConfigError(error.message, ("model", "init")) from None
