"""Files of published weights: found on this machine, or downloaded."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import torch

from cifarlab.core.errors import ConfigError, reason_of
from cifarlab.data.cache import cache_folder

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def weights_folder() -> Path:
    """Return the folder where a user may put files of pretrained weights."""
    return cache_folder("weights")


def _hub_place(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def find_weights(name: str, repository: str | None, url: str | None) -> Path | None:
    """Return the local file of published weights, or None.

    The arguments are those of `fetch_weights`.
    """
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
    """Return the local file of published weights; download it if missing.

    It is looked for in `weights_folder()`, then in the cache of torch.hub, then in that of Hugging Face.

    Args:
        name: Full name of the weights. In `weights_folder()` the file has this name and an ending such as
            .pth.
        repository: Repository on the Hugging Face hub, from which the file is downloaded. None: there is
            none.
        url: Address from which the file is downloaded if there is no repository. None: there is none.

    Raises:
        ConfigError: No weights are published, or they cannot be downloaded. Without a network it is raised
            within seconds. The message says which file to get.
    """
    from huggingface_hub import hf_hub_url

    if found := find_weights(name, repository, url):
        return found
    address = hf_hub_url(repository, _HUB_FILES[0]) if repository else url
    if address is None:
        raise ConfigError(
            f"timm publishes no weights of {name}; set model.backbone.pretrained=false, or name a file"
        )
    try:
        if repository:
            return _from_hub(repository)
        _reach(address)
        target = _hub_place(address)
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(target))
        return target
    except (OSError, RuntimeError) as error:
        inner = getattr(error, "reason", None)  # of a URLError
        reason = reason_of(inner if isinstance(inner, Exception) else error)
        raise ConfigError(
            f"the weights of {name} are not on this machine and cannot be fetched ({reason}); "
            f"get {address} elsewhere, then put it at {weights_folder() / f'{name}{Path(address).suffix}'} "
            f"or set model.backbone.pretrained=/path/to/{address.rpartition('/')[2]}"
        ) from None


def _from_hub(repository: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    for file in _HUB_FILES:
        try:
            # Test the connection first: without a network the hub's own client retries five times, for half a
            # minute.
            _reach(hf_hub_url(repository, file))
            return Path(hf_hub_download(repository, file))
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
    raise OSError(f"{repository} holds none of {', '.join(_HUB_FILES)}")


def _reach(url: str, seconds: float = 10) -> None:
    """Raise OSError unless `url` can be reached within `seconds`."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "cifarlab"})
    with urllib.request.urlopen(request, timeout=seconds):
        pass
