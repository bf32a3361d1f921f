"""Ensembles of runs: the mean of several models' outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifarlab.core.errors import ConfigError
from cifarlab.core.records import Record
from cifarlab.core.registry import Spec
from cifarlab.data.placement import left_on_host, place_split
from cifarlab.data.splits import Split
from cifarlab.engine.calibration import best_temperature
from cifarlab.engine.scoring import collect_outputs, scores
from cifarlab.evaluation.members import load_members, optimism_warnings
from cifarlab.evaluation.score_records import Augmentation, measure
from cifarlab.evaluation.sealed import HELD_OUT_PARTS, open_split, refuse_unknown_split
from cifarlab.evaluation.tta import MEANS, Augmented, mean_called, parse
from cifarlab.models.classifier import Classifier
from cifarlab.runs.model import build_for_loading
from cifarlab.teachers.teacher import Member
from cifarlab.training.setup import count_macs


@dataclass(frozen=True)
class Choice:
    """The members, mean and temperatures of an ensemble.

    All are chosen on validation, except a `mean` that the caller gives. Without validation pictures, all runs
    are members, all temperatures are 1, and `temperature`, `val_top1` and `best` are None.

    Attributes:
        members: Indices of the members among the given runs.
        mean: What is averaged: logits or probabilities.
        temperatures: For each given run, the divisor of its logits before averaging.
        temperature: Divisor of the averaged logits, to calibrate the ensemble. If probabilities are averaged,
            it divides the logarithms of their mean.
        val_top1: Validation accuracy of each given run.
        best: Index of the run with the best validation accuracy.
    """

    members: list[int]
    mean: str
    temperatures: list[float]
    temperature: float | None = None
    val_top1: list[float] | None = None
    best: int | None = None


class EnsembleMember(Record):
    """A run that was considered for an ensemble.

    Attributes:
        run: Path of the run, as the user gave it.
        chosen: Whether the run is in the ensemble.
        val_top1: Validation accuracy. None if no pictures were held out.
        top1: Accuracy on the scored pictures. None if the run was not scored on them.
        temperature: Divisor of the run's logits.
        image_size: Side length of the model's input in pixels.
        precision: Type of the model's arithmetic, e.g. bfloat16.
        forward_passes: Forward passes for one picture.
        macs: Multiply-adds of these passes, counted on the backbone as it is defined.
    """

    run: str
    chosen: bool
    val_top1: float | None
    top1: float | None
    temperature: float
    image_size: int
    precision: str
    forward_passes: int
    macs: int


class EnsembleScores(Record):
    """The scores of an ensemble, with its members and its cost.

    The fields `top1` to `ece_calibrated` are those of `Scores`, here of the averaged predictions.

    Attributes:
        members: All given runs, also those that were not chosen.
        mean: What is averaged over the members: logits or probabilities.
        chosen_on_val: What was chosen on validation: `mean`, `members`, both, or nothing.
        tta: Test-time augmentation of the members. None without it.
        best_member: Path of the run with the best validation accuracy. None if no pictures were held out.
        gain: Accuracy of the ensemble minus that of `best_member`. None without `best_member`.
        forward_passes: Forward passes of all chosen members for one picture.
        macs: Multiply-adds of all chosen members for one picture.
    """

    split: str
    pictures: int
    members: list[EnsembleMember]
    mean: str
    chosen_on_val: list[str]
    tta: Augmentation | None
    top1: float
    top5: float
    loss: float
    nll: float
    ece: float
    temperature: float | None
    nll_calibrated: float | None
    ece_calibrated: float | None
    best_member: str | None
    gain: float | None
    forward_passes: int
    macs: int
    warnings: list[str]


def evaluate_ensemble(
    runs: Sequence[Path | str],
    split: str,
    *,
    device: str = "auto",
    root: str | None = None,
    mean: str | None = None,
    choose: bool = False,
    tta: Spec | str | None = None,
    imports: Sequence[Path | str] = (),
) -> EnsembleScores:
    """Score the mean of several runs' outputs on `val` or `test`.

    Runs may differ in the scale of their logits. So each run's logits are first divided by a temperature that
    is fitted to them on validation.

    Args:
        runs: Two or more runs, their folders, or their checkpoints.
        split: The pictures to score: val or test.
        device: auto, cpu, cuda or cuda:1.
        root: Folder of the data set. Default: the folder that each run read it from.
        mean: What is averaged: logits or probabilities. Default: the better one on validation.
        choose: Also choose the members on validation, by `forward_selection`.
        tta: Test-time augmentation: a name, or `{name: ..., option: ...}`. Each member then averages its
            logits over several views of a picture.
        imports: Python files or modules that register the runs' custom parts.

    Returns:
        The scores and the cost of the ensemble and of its members.

    Raises:
        ConfigError: `load_members` refuses the runs, an argument is unknown, or something must be chosen and
            there are no validation pictures.
    """
    refuse_unknown_split(split, known=HELD_OUT_PARTS)
    if isinstance(tta, str):
        tta = parse(tta)
    means = list(MEANS) if mean is None else [mean]
    for name in means:
        mean_called(name)
    members, splits = load_members(runs, device, root, imports=imports)
    here = members[0].precision.device
    warnings = [*splits.warnings, *optimism_warnings(members)]
    if splits.val is not None:
        pictures = place_split(splits.val, here)
        choice, answers = _decide(members, pictures, means, choose, tta)
    elif split == "val" or mean is None or choose:
        fix = "use --split test and --mean, without --choose"
        raise ConfigError(f"{runs[0]} has no validation pictures to choose on; {fix}", ("data", "val"))
    else:
        pictures, answers = splits.train, torch.empty(0)
        choice = Choice(list(range(len(members))), mean, [1.0] * len(members))
    if split == "test":
        asked = [members[i] for i in choice.members]
        # Each member's opening is recorded, although all members open the same pictures.
        opened = [open_split(member.path, member.trained, "test", "ensemble") for member in asked]
        pictures, warnings = place_split(opened[0].pictures, here), [*opened[0].warnings, *warnings]
        answers = _answers(asked, pictures, tta, [choice.temperatures[i] for i in choice.members])
    together = mean_called(choice.mean)(answers)
    alone = dict(zip(choice.members, (_top1(logits, pictures.labels) for logits in answers), strict=True))
    found = measure(together, pictures.labels, choice.temperature)
    rows = [_row(i, member, choice, alone.get(i), tta) for i, member in enumerate(members)]
    best = choice.best
    return EnsembleScores(
        split=split,
        pictures=len(pictures),
        members=rows,
        mean=choice.mean,
        chosen_on_val=[what for what, is_so in (("mean", len(means) > 1), ("members", choose)) if is_so],
        tta=Augmentation.model_validate(tta.dump()) if tta is not None else None,
        **found,
        best_member=members[best].path if best is not None else None,
        gain=found["top1"] - alone[best] if best is not None else None,
        forward_passes=sum(rows[i].forward_passes for i in choice.members),
        macs=sum(rows[i].macs for i in choice.members),
        warnings=list(dict.fromkeys([*warnings, *left_on_host(pictures)])),
    )


def _decide(
    members: Sequence[Member], val: Split, means: Sequence[str], choose: bool, tta: Spec | None
) -> tuple[Choice, Tensor]:
    """Decide on validation which members and which mean are best.

    Returns the decisions, and calibrated validation logits of the chosen members (M, N, C).
    """
    labels = val.labels
    raw = _answers(members, val, tta, [1.0] * len(members))
    temperatures = [best_temperature(logits, labels) for logits in raw]
    answers = _divided(raw, temperatures)
    everyone = list(range(len(members)))
    best = max(everyone, key=lambda i: _rating(answers[i], labels))
    options = []
    for name in means:
        average = mean_called(name)
        # The gain is measured over the best run, so every choice includes it.
        chosen = forward_selection(answers, labels, average, best) if choose else everyone
        options.append((_rating(average(answers[chosen]), labels), name, chosen))
    _, name, chosen = max(options, key=lambda option: option[0])
    temperature = best_temperature(mean_called(name)(answers[chosen]), labels)
    top1 = [_top1(logits, labels) for logits in answers]
    return Choice(chosen, name, temperatures, temperature, top1, best), answers[chosen]


def forward_selection(
    answers: Tensor, labels: Tensor, average: Callable[[Tensor], Tensor], first: int
) -> list[int]:
    """Choose the members of an ensemble greedily (Caruana et al. 2004).

    Each step adds the member with which the average has the highest accuracy. Ties go to the lower
    cross-entropy. The selection ends when no further member improves the average.

    Args:
        answers: Logits of all candidates (M, N, C).
        labels: Labels (N,).
        average: Averages logits (M, N, C) to (N, C).
        first: Index of the member to start with.

    Returns:
        Indices of the chosen members, in the order of their choice.
    """
    chosen = [first]
    rating = _rating(answers[first], labels)
    while rest := [i for i in range(len(answers)) if i not in chosen]:
        rated = {i: _rating(average(answers[[*chosen, i]]), labels) for i in rest}
        added = max(rest, key=lambda i: rated[i])
        if rated[added] <= rating:
            break
        chosen, rating = [*chosen, added], rated[added]
    return chosen


def _rating(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    found = scores(logits, labels)
    return found["top1"], -found["loss"]


def _top1(logits: Tensor, labels: Tensor) -> float:
    return scores(logits, labels)["top1"]


def _answers(
    members: Sequence[Member], pictures: Split, tta: Spec | None, temperatures: Sequence[float]
) -> Tensor:
    """Return each member's logits divided by its temperature (M, N, C)."""
    said = []
    for member in members:
        model = member.trained.model if tta is None else _augmented(member, member.trained.model, tta)
        said.append(collect_outputs(model, pictures, member.precision, member.image_size)[0])
    return _divided(torch.stack(said), temperatures)


def _divided(logits: Tensor, temperatures: Sequence[float]) -> Tensor:
    return logits / torch.tensor(temperatures, device=logits.device)[:, None, None]


def _row(i: int, member: Member, choice: Choice, top1: float | None, tta: Spec | None) -> EnsembleMember:
    passes, macs = _cost(member, tta)
    return EnsembleMember(
        run=member.path,
        chosen=i in choice.members,
        val_top1=choice.val_top1[i] if choice.val_top1 is not None else None,
        top1=top1,
        temperature=choice.temperatures[i],
        image_size=member.image_size,
        precision=str(member.precision),
        forward_passes=passes,
        macs=macs,
    )


def _cost(member: Member, tta: Spec | None) -> tuple[int, int]:
    """Return forward passes and multiply-adds for one picture."""
    trained, size = member.trained, member.image_size
    written = build_for_loading(trained.saved.model, trained.saved.image_size, trained.model.classes)
    if tta is None:
        return 1, count_macs(written, size)
    augmented = _augmented(member, written, tta)
    return augmented.passes, count_macs(augmented, size)


def _augmented(member: Member, model: Classifier, tta: Spec) -> Augmented:
    return Augmented(model, tta, member.image_size, member.trained.saved.model.backbone.name)
