"""Freezing of parts of a classifier, which training then leaves unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch.nn.modules.batchnorm import _BatchNorm

from cifarlab.core.errors import ConfigError, did_you_mean
from cifarlab.models.classifier import Classifier

NormsInEval = Literal["none", "frozen", "backbone"]


def freeze(classifier: Classifier, parts: Sequence[str], *, batch_norm_eval: NormsInEval = "frozen") -> None:
    """Freeze parts of a classifier in place.

    Args:
        classifier: The classifier.
        parts: Dotted names as in the state dict, or prefixes of them: backbone, backbone.layer1, head. Their
            parameters get no gradient.
        batch_norm_eval: Which batch norms stay in evaluation mode during training, so that their running
            statistics are used and do not change. "none": no batch norm. "frozen": those inside `parts`.
            "backbone": those inside `parts`, and all of the backbone.

    Raises:
        ConfigError: A part has no parameters. The error's path is `model.freeze`.
    """
    for part in parts:
        held = [parameter for name, parameter in classifier.named_parameters() if _is_in(name, (part,))]
        if not held:
            raise ConfigError(
                f"no parameter matches {part!r}; {_nearest(part, classifier)}", ("model", "freeze")
            )
        for parameter in held:
            parameter.requires_grad_(False)
    still = {"none": (), "frozen": tuple(parts), "backbone": (*parts, "backbone")}[batch_norm_eval]
    classifier.norms_in_eval = tuple(name for name in _norms(classifier) if _is_in(name, still))
    classifier.train(classifier.training)


def describe_frozen(classifier: Classifier) -> list[str]:
    """Describe what is frozen in one line, for the run's record.

    The result is a list that holds this line, or an empty list if nothing is frozen.
    """
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
    """Suggest the module that was probably meant by `part`."""
    names = [name.split(".")[:-1] for name, _ in classifier.named_parameters()]
    known = {".".join(name[:length]) for name in names for length in range(1, len(name) + 1)}
    if f"backbone.{part}" in known:
        return f"did you mean backbone.{part}?"
    return did_you_mean(part, known) or "name parts as backbone, head or backbone.<part>"
