"""Weights from files: every name in a file or a module is loaded, left for a stated reason, or an error."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifarlab.core.checkpoints import best_in
from cifarlab.core.errors import ConfigError
from cifarlab.data.cache import cache_folder

StateDict = Mapping[str, Tensor]
HEAD_IS_NEW = "the head is new"
# A file may hold a little that the module has no place for (a mask token, a counter), never a layer:
# ResNet-34's file has every name and shape of a ResNet-18, and half of it would be left.
_SPARE = 0.01
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class LoadReport:
    """What a file gave to a module. loaded: how many tensors. left: {name: why its tensor was not used}.

    fresh: {name: why the module kept its own}.
    """

    source: str
    sha256: str
    loaded: int
    left: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """One line, for the terminal."""
        sides = (("left", self.left), ("kept", self.fresh))
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
    """The state dict in a safetensors or PyTorch file, and the file's sha256. Nothing in the file can run.

    Looks inside the usual wrappings (`model`, `state_dict`; a run's last.pt has `engine` around `model`) and
    takes off a `module.` before every name. Raises ConfigError that names the file where it is missing, cut
    off or something else.
    """
    path = Path(path).expanduser()
    content, sha256 = _read(path)
    return _state_of(content, path), sha256


def _read(path: Path) -> tuple[Any, str]:
    """What a file of weights holds, and its sha256."""
    if not path.is_file():
        raise ConfigError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), sha256
        return torch.load(path, map_location="cpu", weights_only=True), sha256
    except Exception as error:  # zip, pickle, struct, key, memory errors: whatever a broken file leads into
        reason = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        raise ConfigError(f"{path}: not weights that can be read, or cut off ({reason})") from None


def _state_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict within what a file holds."""
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
    """The backbone's part of a `Classifier`'s state dict, under its own names; any other as it is."""
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
    """Copy a state dict into a module, and account for every name of both.

    free: {prefix of names: why}: those may be on one side only, or differ in shape; they are reported.
    Raises ConfigError, and changes nothing, where any other name of the module is missing or has another
    shape, or where what the file has to spare is more than 1 % of its numbers.
    """
    own = module.state_dict()
    left: dict[str, str] = {}
    fresh: dict[str, str] = {}
    wrong: list[str] = []
    for name in own.keys() | state.keys():
        why = excuse(name, free or {})
        if name not in state:
            if name.endswith("num_batches_tracked"):
                fresh[name] = "a counter that older files lack"
            elif why is not None:
                fresh[name] = why
            else:
                wrong.append(f"{name} is missing")
        elif name not in own:
            left[name] = "no such name here" if why is None else why
        elif own[name].shape != state[name].shape:
            shapes = f"shape {list(state[name].shape)} in the file, {list(own[name].shape)} here"
            if why is None:
                wrong.append(f"{name} has {shapes}")
            else:
                left[name] = shapes
    spare = [name for name in left if name not in own and excuse(name, free or {}) is None]
    if sum(state[name].numel() for name in spare) > _SPARE * sum(value.numel() for value in state.values()):
        wrong.extend(f"{name} has no place" for name in spare)
    if wrong:
        wrong.sort()
        more = f"; {len(wrong) - 1} more such names" if len(wrong) > 1 else ""
        raise ConfigError(f"{source} does not fit, it is of another architecture: {wrong[0]}{more}")
    used = {name: value for name, value in state.items() if name in own and name not in left}
    module.load_state_dict(used, strict=False)  # accounted for above, name by name
    return LoadReport(source, sha256, len(used), dict(sorted(left.items())), dict(sorted(fresh.items())))


def excuse(name: str, free: Mapping[str, str]) -> str | None:
    """The reason of the first of `free`'s prefixes that a dotted name begins with."""
    return next((why for prefix, why in free.items() if f"{name}.".startswith(f"{prefix}.")), None)


def init_from(classifier: nn.Module, path: str | Path) -> LoadReport:
    """Start a `Classifier` from a run's folder (its best.pt) or a checkpoint of one.

    The head is left where it is of another form or of other classes. Normalisation and size stay the recipe's
    own. Raises ConfigError with the path `model.init`.
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
            raise ConfigError(f"{path} is no checkpoint of cifarlab; say model.backbone.pretrained={path}")
        own = classifier.state_dict()
        head = [name for name in own.keys() | state.keys() if name.startswith("head.")]
        same_head = all(n in own and n in state and own[n].shape == state[n].shape for n in head)
        # best.pt names its classes; weights for as many others are of no use to the head.
        theirs, ours = content.get("classes"), getattr(classifier, "classes", None)
        same_head = same_head and (theirs is None or ours is None or tuple(theirs) == tuple(ours))
        free = {"mean": "normalisation is the recipe's", "std": "normalisation is the recipe's"}
        if not same_head:
            free["head"] = HEAD_IS_NEW
        # What is left is left whole: half a head would be worth less than a new one.
        state = {name: value for name, value in state.items() if excuse(name, free) is None}
        return load_weights(classifier, state, source=str(path), sha256=sha256, free=free)
    except ConfigError as error:
        raise ConfigError(error.message, ("model", "init")) from None


def weights_folder() -> Path:
    """Where files of pretrained weights may be put."""
    return cache_folder("weights")


def _hub_place(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def find_weights(name: str, repository: str | None, url: str | None) -> Path | None:
    """The local file of a model's published weights, as `fetch_weights` looks for it; None without one."""
    from huggingface_hub import try_to_load_from_cache

    placed = [weights_folder() / f"{name}{ending}" for ending in (".safetensors", ".pth", ".pt", ".bin")]
    placed += [_hub_place(url)] if url else []
    for path in placed:
        if path.is_file():
            return path
    for file in _HUB_FILES if repository else ():
        if isinstance(cached := try_to_load_from_cache(repository or "", file), str):
            return Path(cached)
    return None


def fetch_weights(name: str, repository: str | None, url: str | None) -> Path:
    """The local file of a model's published weights, downloaded if need be.

    Looked for as `<weights_folder()>/<name><ending>`, in torch.hub's cache and in Hugging Face's; then
    fetched from the hub's `repository`, else from `url`. Raises ConfigError within seconds where there is no
    network, saying which file to get and where to put it.
    """
    from huggingface_hub import hf_hub_url

    if found := find_weights(name, repository, url):
        return found
    address = hf_hub_url(repository, _HUB_FILES[0]) if repository else url
    if address is None:
        raise ConfigError(f"nobody publishes weights of {name}; say pretrained=false, or name a file")
    try:
        if repository:
            return _from_hub(repository)
        _reach(address)
        target = _hub_place(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(target))
        return target
    except (OSError, RuntimeError) as error:
        reason = str(getattr(error, "reason", error)).strip().partition("\n")[0][:120]
        raise ConfigError(
            f"the weights of {name} are not on this machine and cannot be fetched ({reason}); "
            f"get {address} elsewhere, then put it at {weights_folder() / f'{name}{Path(address).suffix}'} "
            f"or say model.backbone.pretrained=/path/to/{address.rpartition('/')[2]}"
        ) from None


def _from_hub(repository: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    for file in _HUB_FILES:
        try:
            # Asked first: without a network the hub's own client tries five more times, for half a minute.
            _reach(hf_hub_url(repository, file))
            return Path(hf_hub_download(repository, file))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
    raise OSError(f"{repository} holds none of {', '.join(_HUB_FILES)}")


def _reach(url: str, seconds: float = 10) -> None:
    """Raise OSError unless a server answers for this address."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "cifarlab"})
    with urllib.request.urlopen(request, timeout=seconds):
        pass
