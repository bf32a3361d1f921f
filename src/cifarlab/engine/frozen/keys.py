"""Keys that identify stored activations by everything that they depend on."""

from __future__ import annotations

import hashlib
from importlib import metadata

import torch

from cifarlab.config import Config
from cifarlab.core.device import Precision
from cifarlab.core.plain import Plain
from cifarlab.data.splits import Split, Splits
from cifarlab.engine.batches import code_digest
from cifarlab.engine.frozen.tail import Border
from cifarlab.models.classifier import Classifier

# Increase this number when the content or the format of the files changes.
KEY_VERSION = 1


def split_key(
    config: Config, border: Border, splits: Splits, split: Split, precision: Precision, weights: str
) -> dict[str, Plain]:
    """Return what a split's stored activations depend on, apart from the view.

    The result can be written as JSON. `Activations` adds the view to it, with the augmentation options and
    the seed. `weights` is a result of `frozen_digest`.
    """
    name = "test" if split is splits.test else "val" if split is splits.val else "train"
    return {
        "version": KEY_VERSION,
        "code": code_digest(config.imports),
        "packages": {package: metadata.version(package) for package in ("torch", "timm")},
        "backbone": config.model.backbone.dump(),
        "weights": weights,
        "border": [*border.modules],
        "shape": [*border.shape],
        "dtype": str(border.dtype).removeprefix("torch."),
        "channels_last": border.channels_last,
        "precision": f"{precision} on {precision.device.type}",
        "image_size": config.data.image_size,
        "store_size": split.images.shape[-1],
        "data": splits.fingerprint.get(name, splits.fingerprint["train"]),
        "split": hashlib.blake2b(split.ids.cpu().numpy().tobytes(), digest_size=16).hexdigest(),
    }


def frozen_digest(model: Classifier, border: Border) -> str:
    """Return a digest of all weights and buffers that affect the activations.

    It has 32 hex digits.
    """
    state = hashlib.blake2b(digest_size=16)
    known = {"mean": model.mean, "std": model.std}
    for name in border.modules:
        known |= model.get_submodule(name).state_dict(prefix=f"{name}.")
        # Parameters and buffers of parent modules, such as position embeddings, may act before the border,
        # too.
        for depth in range(1, name.count(".") + 1):
            parent = ".".join(name.split(".")[:depth])
            own = model.get_submodule(parent)
            held = [*own.named_parameters(parent, recurse=False), *own.named_buffers(parent, recurse=False)]
            known |= {key: value for key, value in held if not value.requires_grad}
    for name, value in sorted(known.items()):
        state.update(f"{name} {value.dtype} {[*value.shape]}".encode())
        state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
