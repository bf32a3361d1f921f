"""Soups: models whose weights are the mean of several runs' weights."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifarlab.core import checkpoints
from cifarlab.core.device import Precision, describe_hardware, peak_memory
from cifarlab.core.errors import ConfigError
from cifarlab.data.placement import left_on_host, place_all
from cifarlab.data.splits import Split, Splits
from cifarlab.engine.plan import Plan
from cifarlab.engine.scoring import score_split
from cifarlab.evaluation.members import load_members, optimism_warnings
from cifarlab.models.batch_norm import norms_in_training, reestimated_statistics
from cifarlab.models.classifier import Classifier
from cifarlab.models.freezing import freeze
from cifarlab.runs.environment import describe_environment
from cifarlab.runs.folder import Run
from cifarlab.runs.model import best_of, build_for_loading
from cifarlab.runs.summary import Soup, SoupIngredient, Summary
from cifarlab.teachers.teacher import Member
from cifarlab.training.resume import best_state
from cifarlab.training.setup import count_macs

Weights = dict[str, Tensor]


def make_soup(
    runs: Sequence[Path | str],
    soup: Run,
    *,
    device: str = "auto",
    root: str | None = None,
    fresh: bool = False,
    imports: Sequence[Path | str] = (),
) -> Summary:
    """Average runs' weights greedily, save the result and return its summary.

    Runs are tried in the order of their validation accuracy, the best first. A run stays in the average if it
    does not lower the average's validation accuracy (the greedy soup of Wortsman et al. 2022). Batch norm
    statistics of each average are estimated from unaugmented training pictures. The soup is saved as a run
    that has the configuration of the best run.

    Args:
        runs: Two or more runs, their folders, or their checkpoints.
        soup: The run to write.
        device: auto, cpu, cuda or cuda:1.
        root: Folder of the data set. Default: the folder that each run read it from.
        fresh: Remove an existing run in the folder of `soup`.
        imports: Python files or modules that register the runs' custom parts.

    Raises:
        ConfigError: The folder of `soup` already holds a run, the runs have different architectures, a run
            was trained on another's validation pictures, or there are no validation pictures.
    """
    begun = time.monotonic()
    _refuse_to_overwrite(runs, soup, fresh)
    with soup.locked():
        _refuse_to_overwrite(runs, soup, fresh)  # Another process may have written the soup.
        members, splits = load_members(runs, device, root, imports=imports)
        _refuse_other_architectures(members)
        for member in members:
            # The soup keeps one run's configuration. A missing part must raise before any work is done and
            # before anything is removed.
            _ = member.trained.saved.whole
        if splits.val is None:
            raise ConfigError(f"{runs[0]} has no validation pictures to choose on", ("data", "val"))
        splits = place_all(splits, members[0].precision.device)
        assert splits.val is not None
        result = _cook(members, splits.train, splits.val)
        if fresh:
            soup.start_over()
        return _keep(soup, members, result, splits, begun)


def _refuse_to_overwrite(runs: Sequence[Path | str], soup: Run, fresh: bool) -> None:
    if any(best_of(run).parent.resolve() == soup.folder.resolve() for run in runs):
        raise ConfigError(f"{soup} is itself an ingredient; use another --name")
    if not fresh and any(path.exists() for path in (soup.best_path, soup.config_path, soup.summary_path)):
        raise ConfigError(f"{soup} exists; keep both with another --name, or replace it with --fresh")


def _refuse_other_architectures(members: Sequence[Member]) -> None:
    first = members[0]
    for other in members[1:]:
        reason = _difference(first.trained.model, other.trained.model)
        ours, theirs = first.trained.saved.model, other.trained.saved.model
        if ours.backbone.name != theirs.backbone.name:
            reason = f"{ours.backbone.name} there, {theirs.backbone.name} here"
        elif ours.head.dump() != theirs.head.dump():
            reason = f"head {ours.head.dump()} there, {theirs.head.dump()} here"
        elif first.image_size != other.image_size:
            reason = f"{first.image_size} px there, {other.image_size} px here"
        if reason:
            raise ConfigError(
                f"{other.path} has another architecture than {first.path} ({reason}): their weights cannot "
                "be averaged; `cifarlab ensemble` averages their outputs"
            )


def _difference(one: Classifier, other: Classifier) -> str | None:
    """Describe the first difference in weights' shapes, or in normalisation, if any."""
    ours, theirs = one.state_dict(), other.state_dict()
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        shapes = [tuple(state[name].shape) if name in state else "none" for state in (ours, theirs)]
        if shapes[0] != shapes[1]:
            return f"{name} {shapes[0]} there, {shapes[1]} here"
    if not (torch.equal(one.mean, other.mean) and torch.equal(one.std, other.std)):
        return "pictures are normalised in another way"
    return None


@dataclass(frozen=True)
class SoupResult:
    """A soup: a model whose weights are the mean of several runs' weights.

    Attributes:
        model: The soup's model.
        first: The run with the best validation accuracy. It is always in the soup.
        scores: Validation scores of the soup: `top1`, `top5` and `loss`.
        kept: Number of runs in the soup.
        record: One entry for each run that was tried, the best run first: the validation accuracies of the
            run alone and of the average with it, and whether the run was kept.
    """

    model: Classifier
    first: Member
    scores: dict[str, float]
    kept: int
    record: list[SoupIngredient]


def _cook(members: Sequence[Member], train: Split, val: Split) -> SoupResult:
    alone = [score_split(m.trained.model, val, m.precision, m.image_size) for m in members]
    # The sort is stable: of equal runs, the first named comes first.
    ranked = sorted(zip(members, alone, strict=True), key=lambda pair: -pair[1]["top1"])
    (first, best), others = ranked[0], ranked[1:]
    config = first.trained.saved
    model = copy.deepcopy(first.trained.model)
    freeze(model, config.model.freeze, batch_norm_eval=config.model.batch_norm_eval)
    kept = [first.trained.model.state_dict()]
    soup = kept[0]
    record = [_entry(first, best, best, True)]
    for member, scores in others:
        tried = [*kept, member.trained.model.state_dict()]
        average_weights(model, tried, train, config.data.batch_size, first.precision)
        found = score_split(model, val, first.precision, first.image_size)
        is_kept = found["top1"] >= best["top1"]
        if is_kept:
            kept, best, soup = tried, found, copy.deepcopy(model.state_dict())
        record.append(_entry(member, scores, found, is_kept))
    model.load_state_dict(soup)
    return SoupResult(model, first, best, len(kept), record)


def _entry(
    member: Member, alone: dict[str, float], with_it: dict[str, float], is_kept: bool
) -> SoupIngredient:
    summary = Run(best_of(member.path).parent).summary()
    return SoupIngredient(
        run=str(member.path),
        sha256=member.sha256,
        seconds=summary.seconds if summary is not None else None,
        val_top1=alone["top1"],
        soup_val_top1=with_it["top1"],
        kept=is_kept,
    )


@torch.no_grad()
def average_weights(
    model: Classifier, ingredients: Sequence[Weights], train: Split, batch_size: int, precision: Precision
) -> None:
    """Set the model's weights to the mean of state dicts, in place.

    Batch norm statistics are estimated from unaugmented training pictures. But if the mean equals the first
    state dict, e.g. because it is the only one, its statistics are kept. Values that are not floating-point
    numbers are taken from the first state dict. The model is left in evaluation mode.

    Args:
        model: The model to change.
        ingredients: State dicts of equal shapes.
        train: The training pictures.
        batch_size: Pictures in a batch.
        precision: Precision of the forward passes.
    """
    model.load_state_dict(average(ingredients))
    if all(torch.equal(weights, ingredients[0][name]) for name, weights in model.named_parameters()):
        model.load_state_dict(ingredients[0])
        return
    norms = norms_in_training(model.train())
    model.eval()  # Dropout would change the inputs of the norms.
    for norm in norms:
        norm.train()
    if norms:
        plan, order = Plan(len(train), batch_size, 1), torch.arange(len(train), device=train.rows.device)
        with reestimated_statistics(model), precision.autocast():
            for step in range(plan.steps_per_epoch):
                model(precision.layout(train.gather(plan.positions(order, step))[0]))
    model.eval()


def average(states: Sequence[Weights]) -> Weights:
    """Average state dicts in float64; take integers from the first."""

    def mean(values: Sequence[Tensor]) -> Tensor:
        if not values[0].is_floating_point():
            return values[0]
        return torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)

    return {name: mean([state[name] for state in states]) for name in states[0]}


def _keep(run: Run, members: Sequence[Member], result: SoupResult, splits: Splits, begun: float) -> Summary:
    """Write the soup's folder and return its summary.

    `summary.json` is written last. It marks the folder as complete.
    """
    model, first = result.model, result.first
    trained = first.trained
    config, device, size = trained.saved.whole, first.precision.device, first.image_size
    train_top1 = score_split(model, splits.train, first.precision, size)["top1"]
    row = {"epoch": trained.epoch, "step": 0, **{f"val/{key}": value for key, value in result.scores.items()}}
    warnings = [*splits.warnings, *optimism_warnings(members)]
    env = describe_environment(describe_hardware(device)).changed(
        name=run.name,
        precision=str(first.precision),
        data_fingerprint=splits.fingerprint,
        warnings=warnings,
        notes=[*splits.notes, *left_on_host(splits.train, splits.val)],
    )
    own = time.monotonic() - begun
    summary = Summary(
        recipe=run.recipe,
        seed=config.train.seed,
        epochs=config.train.epochs,
        chosen_on="val",
        chosen_epoch=trained.epoch,
        train_top1=train_top1,
        val_top1=result.scores["top1"],
        test_top1=None,
        gap=train_top1 - result.scores["top1"],
        # The total cost includes the training of the ingredients.
        seconds=own + sum(entry.seconds or 0 for entry in result.record),
        images_per_second=len(splits.train) / own,
        parameters=sum(p.numel() for p in model.parameters()),
        macs=count_macs(build_for_loading(config.model, size, model.classes), size),
        peak_memory_bytes=peak_memory(device),
        data_fingerprint=splits.fingerprint["train"],
        warnings=warnings,
        soup=Soup(kept=result.kept, ingredients=result.record),
    )
    checkpoints.save_checkpoint(run.best_path, best_state(model, config, splits, row))
    run.write_config(config)
    run.write_env(env)
    run.write_summary(summary)
    return summary
