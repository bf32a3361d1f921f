"""Loading of weights from files, with a check of every name in the file and in the module."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from cifarlab.core.checkpoints import best_in
from cifarlab.core.errors import ConfigError
from cifarlab.models.stand_ins import printable
from cifarlab.models.state_dicts import find_state
from cifarlab.models.weight_files import read_weight_file

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
        notes: Where the tensors were found in the file, and what was changed in them or in their names.
    """

    source: str
    sha256: str
    loaded: int
    left: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one line for the terminal."""
        skipped = {name: why for name, why in self.left.items() if self.fresh.get(name) != why}
        sides = (("skipped", skipped), ("not loaded", self.fresh))
        parts = [
            f"{word} {_names(names)}: {why}"
            for word, what in sides
            for why, names in _by_reason(what).items()
        ]
        loaded = f"{self.source} (sha256 {self.sha256[:12]}): {self.loaded} tensors loaded"
        return "; ".join([loaded, *self.notes, *parts])


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, why in reasons.items():
        grouped.setdefault(why, []).append(name)
    return grouped


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@dataclass(frozen=True)
class ReadWeights:
    """The state dict of a file.

    Attributes:
        state: The tensors by name.
        sha256: SHA-256 of the file.
        notes: Where they were found in the file and what was changed, for the report.
        classes: Class names, if the file states them as best.pt does.
    """

    state: dict[str, Tensor]
    sha256: str
    notes: list[str]
    classes: tuple[str, ...] | None


def read_weights(path: str | Path, *, names: Collection[str] = ()) -> ReadWeights:
    """Read the state dict of a safetensors or PyTorch file.

    No code in the file can run. The state dict may lie under another key, and its names may have a prefix
    (see `find_state`).

    Args:
        path: The file.
        names: Names of the module's tensors, if known. They decide which state dict of several is taken, and
            which prefix is removed.

    Raises:
        ConfigError: The file is missing, incomplete or of another kind. The message names it.
    """
    path = Path(path).expanduser()
    file = read_weight_file(path)
    try:
        found = find_state(file.content, names=names)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from None
    unread = ", ".join(map(printable, file.unread[:3])) + (" and others" if file.unread[3:] else "")
    notes = [*found.notes, *([f"objects not read: {unread}"] if unread else [])]
    classes = file.content.get("classes") if isinstance(file.content, Mapping) else None
    return ReadWeights(
        found.state, file.sha256, notes, tuple(classes) if isinstance(classes, list | tuple) else None
    )


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
    _refuse_not_finite(used, own, source)
    module.load_state_dict(used, strict=False)  # not strict: each name was checked above
    return LoadReport(source, sha256, len(used), dict(sorted(left.items())), dict(sorted(fresh.items())))


def _refuse_not_finite(state: StateDict, own: StateDict, source: str) -> None:
    """Raise ConfigError if a tensor is NaN or infinite where the module's own is finite."""
    for name, value in state.items():
        bad = int((~value.isfinite()).sum())
        if bad and own[name].isfinite().all():
            raise ConfigError(
                f"{source}: {bad} of {value.numel()} values of {name} are not finite (NaN or infinite); "
                "name a file from before the training diverged"
            )


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
        own = classifier.state_dict()
        read = read_weights(path, names=own)
        state = read.state
        if not any(name.startswith("backbone.") for name in state):
            raise ConfigError(f"{path} is no checkpoint of cifarlab; set model.backbone.pretrained={path}")
        head = [name for name in own.keys() | state.keys() if name.startswith("head.")]
        same_head = all(n in own and n in state and own[n].shape == state[n].shape for n in head)
        # best.pt names its classes. Weights for equally many other classes do not suit the head.
        theirs, ours = read.classes, getattr(classifier, "classes", None)
        same_head = same_head and (theirs is None or ours is None or theirs == tuple(ours))
        free: dict[str, str] = dict.fromkeys(("mean", "std"), "taken from the recipe")
        if not same_head:
            free["head"] = HEAD_IS_NEW
        # Excused parts are left out completely: half of an old head would be worse than a new head.
        skipped = {name: why for name in sorted(state) if (why := excuse(name, free)) is not None}
        state = {name: value for name, value in state.items() if name not in skipped}
        report = load_weights(classifier, state, source=str(path), sha256=read.sha256, free=free)
        left = dict(sorted({**report.left, **skipped}.items()))
        return replace(report, left=left, notes=read.notes)
    except ConfigError as error:
        raise ConfigError(error.message, ("model", "init")) from None
