"""Parts of a classifier that training leaves as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch.nn.modules.batchnorm import _BatchNorm

from cifarlab.core.errors import ConfigError, did_you_mean
from cifarlab.models.classifier import Classifier

NormsInEval = Literal["none", "frozen", "backbone"]


def freeze(classifier: Classifier, parts: Sequence[str], batch_norm_eval: NormsInEval = "frozen") -> None:
    """Take the gradients from parts of a classifier, and keep batch norms of it in evaluation mode, in place.

    parts: dotted names as in the state dict, or beginnings of them: backbone, backbone.layer1, head.
    batch_norm_eval: which norms use and keep their running statistics in training too: none, those inside the
    parts, or all of the backbone's as well. Raises ConfigError with the path `model.freeze` for a part that
    holds no parameter.
    """
    for part in parts:
        held = [parameter for name, parameter in classifier.named_parameters() if _is_in(name, (part,))]
        if not held:
            raise ConfigError(
                f"no parameter lies in {part!r}; {_nearest(part, classifier)}", ("model", "freeze")
            )
        for parameter in held:
            parameter.requires_grad_(False)
    still = {"none": (), "frozen": tuple(parts), "backbone": (*parts, "backbone")}[batch_norm_eval]
    classifier.norms_in_eval = tuple(name for name in _norms(classifier) if _is_in(name, still))
    classifier.train(classifier.training)


def describe_frozen(classifier: Classifier) -> list[str]:
    """A line on what is frozen, for the run's record, or none."""
    held = sum(parameter.numel() for parameter in classifier.parameters() if not parameter.requires_grad)
    total = sum(parameter.numel() for parameter in classifier.parameters())
    still, norms = len(classifier.norms_in_eval), len(_norms(classifier))
    line = f"frozen: {held:,} of {total:,} parameters, and the statistics of {still} of {norms} batch norms"
    return [line] if held or still else []


def _norms(classifier: Classifier) -> list[str]:
    return [name for name, module in classifier.named_modules() if isinstance(module, _BatchNorm)]


def _is_in(name: str, parts: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def _nearest(part: str, classifier: Classifier) -> str:
    """The module meant, perhaps by its name within the backbone."""
    names = [name.split(".")[:-1] for name, _ in classifier.named_parameters()]
    known = {".".join(name[:length]) for name in names for length in range(1, len(name) + 1)}
    if f"backbone.{part}" in known:
        return f"did you mean backbone.{part}?"
    return did_you_mean(part, known) or "name parts as backbone, head or backbone.<part>"
