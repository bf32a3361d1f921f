"""Preparation of a run before its folder is created: data, model, teacher, objective, engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cifarlab.config import Config
from cifarlab.core.batch import Batch, Output
from cifarlab.core.device import Precision, pick_device, pick_precision, use_deterministic
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import hash_ints, label_key
from cifarlab.data.channels import channel_statistics
from cifarlab.data.placement import left_on_host, place_all
from cifarlab.data.splits import Split, Splits, load_splits
from cifarlab.engine.batches import make_batch, num_views, view_epoch
from cifarlab.engine.frozen import Activations, NoBorder, find_border, frozen_share, reason_against
from cifarlab.engine.sources import Source
from cifarlab.engine.step import Engine
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.models.freezing import describe_frozen, freeze
from cifarlab.models.sizes import check_sizes
from cifarlab.objectives.objective import Objective, build_objective
from cifarlab.teachers import Replay, Teacher, find_teacher, has_same_pictures, knows_validation, load_teacher
from cifarlab.training.no_effect import low_scale, without_effect_on
from cifarlab.training.progress import OPTIMISTIC
from cifarlab.training.remarks import Remarks

# Activations are kept automatically if they save at least this share of a forward pass.
WORTH_KEEPING = 0.1


@dataclass(frozen=True)
class Job:
    """A prepared run: all checks for user's mistakes have passed.

    Attributes:
        splits: The pictures, placed on the device if they fit.
        engine: The engine, which runs training steps and evaluations.
        teacher: The teacher, even if the engine reads its outputs from a cache. None if no loss needs one.
        activations: Cache of the activations of the frozen first part. None if they are not cached.
        macs: Multiply-adds of the whole model for one picture at `data.image_size`.
        remarks: Notes and warnings.
    """

    splits: Splits
    engine: Engine
    teacher: Teacher | None
    activations: Activations | None
    macs: int
    remarks: Remarks


def prepare(config: Config, *, initial: bool = True, runs: Path = Path("runs")) -> Job:
    """Read the data; build model, teacher, objective and optimizer on the device.

    Args:
        config: The configuration.
        initial: Load initial weights. Pass False when a checkpoint will overwrite them.
        runs: Folder of all runs, in which `teacher.run` is searched.

    Raises:
        ConfigError: The configuration does not fit the data, the model, the teacher or this machine.
    """
    if config.teacher_outputs and config.teacher:
        for name in config.teacher.run:  # A missing teacher is reported before data are downloaded.
            find_teacher(name, config.teacher.seed, runs)
    remarks = Remarks()
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    use_deterministic(device, config.train.deterministic)
    splits = load_data(config, device, remarks)
    num_classes = len(splits.classes)
    # Model and objective draw their initial weights from this one stream, in this order.
    torch.manual_seed(hash_ints(config.train.seed, label_key("weights")))
    model = build_model(config, splits, initial, remarks)
    macs = count_macs(model, config.data.image_size)
    model = to_device(model, device)
    teacher = build_teacher(config, splits, device, runs, remarks)
    student, answer = _examples(model, teacher, splits.train)
    features = model.num_features
    objective = build_objective(config.objective, num_classes, features, student=student, teacher=answer)
    objective = objective.to(device)
    if config.train.select == "test":
        remarks.warn(f"the epoch is {OPTIMISTIC}")
    remarks.warn(*without_effect_on(config, model), *low_scale(config, num_classes))
    source = teacher
    if teacher and config.teacher and config.teacher.cache and can_be_kept(config):
        source = Replay(teacher, config, splits.train, num_classes, splits.fingerprint["train"])
    activations = keep_activations(config, model, objective, splits, precision, source, remarks)
    engine = Engine(
        config, model, objective, splits.train, precision, teacher=source, activations=activations
    )
    return Job(splits, engine, teacher, activations, macs, remarks)


def load_data(config: Config, device: torch.device, remarks: Remarks) -> Splits:
    """Load the run's splits, on the device if they fit.

    Raises:
        ConfigError: There are too few pictures to train on, or none to choose the epoch on.
    """
    select = config.train.select
    splits = load_splits(config.data, config.split_seed, with_test=select == "test")
    if len(splits.train) < 2:
        key, fix = ("val", "hold out fewer") if config.data.limit is None else ("limit", "keep more")
        raise ConfigError(f"leaves one picture to train on, and batch norm needs two; {fix}", ("data", key))
    if select != "last" and getattr(splits, select) is None:
        fix = "data.val=0.1, or train.select=last" if select == "val" else "train.select=val"
        raise ConfigError(
            f"there are no {select} pictures to choose the epoch on; set {fix}", ("train", "select")
        )
    splits = place_all(splits, device)
    remarks.note(*splits.notes, *left_on_host(splits.train, splits.val, splits.test))
    remarks.warn(*splits.warnings)
    return splits


def build_model(config: Config, splits: Splits, initial: bool, remarks: Remarks) -> Classifier:
    """Build the classifier on the host and freeze its parts.

    Args:
        config: The configuration.
        splits: The data. Statistics and data-dependent initial weights are computed from `splits.train`.
        initial: Load or compute initial weights, as the configuration says. False: random ones.
        remarks: Collects notes and warnings.

    Raises:
        ConfigError: The model cannot be built, or does not support a size of the pictures.
    """
    statistics = None
    if config.model.normalize == "dataset":
        statistics, constant = channel_statistics(splits.train)
        remarks.warn(*constant)
    size, classes = config.data.image_size, splits.classes
    model = build_classifier(
        config.model, size, len(classes), dataset_mean_std=statistics, classes=classes, initial=initial
    )
    if initial and not config.model.init:
        model.fit(some_pictures(splits.train))
    freeze(model, config.model.freeze, batch_norm_eval=config.model.batch_norm_eval)
    remarks.note(*weight_notes(config, model))
    if (scale := config.data.multi_scale) is not None:
        check_sizes(model, config.model.backbone.name, scale.sizes, ("data", "multi_scale", "sizes"))
    return model


def build_teacher(
    config: Config, splits: Splits, device: torch.device, runs: Path, remarks: Remarks
) -> Teacher | None:
    """Load the teacher, or return None if no loss needs one.

    Raises:
        ConfigError: There is no such teacher, or it does not fit the data or the configuration.
    """
    if not config.teacher_outputs:
        return None
    teacher = load_teacher(config, splits.classes, device, runs)
    remarks.note(f"teacher: {teacher}", *teacher_notes(config, teacher, splits))
    remarks.warn(
        *(
            f"the teacher {member.path} was {OPTIMISTIC}, and so are this run's scores"
            for member in teacher.members
            if member.trained.saved.select == "test"
        )
    )
    return teacher


def keep_activations(
    config: Config,
    model: Classifier,
    objective: Objective,
    splits: Splits,
    precision: Precision,
    teacher: Source | None,
    remarks: Remarks,
) -> Activations | None:
    """Prepare the cache of the frozen first part's activations, if possible.

    If it is impossible or saves too little, a note gives the reason. There is no note if no part of the
    backbone is frozen, or `train.keep_activations` is false.

    Raises:
        ConfigError: `train.keep_activations` is true and they cannot be kept.
    """
    wanted, has_frozen = config.train.keep_activations, any(map(_is_of_backbone, config.model.freeze))
    if wanted is False or (wanted == "auto" and not has_frozen):
        return None
    reason = reason_against(config, teacher is None or isinstance(teacher, Replay))
    if not has_frozen:
        reason = "no part of the backbone is frozen; set model.freeze=backbone"
    if reason is None:
        try:
            batch = _small_batch(config, model, splits.train, teacher)
            border = find_border(model, objective, batch, precision)
            share = frozen_share(model, border)
            if wanted is True or share >= WORTH_KEEPING:
                return Activations(config, model, border, splits, precision)
            reason = f"up to {border.name} they save {share:.1%} of a forward pass (train.keep_activations)"
        except NoBorder as error:
            reason = str(error)
    if wanted is True:
        raise ConfigError(f"activations cannot be kept: {reason}", ("train", "keep_activations"))
    remarks.note(f"activations of the frozen part are not kept: {reason}")
    return None


def _is_of_backbone(part: str) -> bool:
    return part.partition(".")[0] == "backbone"


def _small_batch(config: Config, model: Classifier, split: Split, teacher: Source | None) -> Batch:
    """Return a batch of at most 16 pictures of the first epoch."""
    positions = torch.arange(min(16, config.data.batch_size, len(split)), device=split.rows.device)
    view = view_epoch(config, 0)
    batch = make_batch(split, positions, config.data, config.train.seed, view, model.num_classes)
    if isinstance(teacher, Replay):
        live = teacher.teacher
        batch = replace(batch, teacher=live.read(live.ask(batch.images)))
    return replace(batch, progress=1.0)


def some_pictures(split: Split, *, count: int = 5000) -> Tensor:
    """Return at most `count` evenly spaced pictures of a split. (n, 3, H, W) uint8 on the CPU."""
    stride = -(-len(split) // count)
    return split.gather(torch.arange(0, len(split), stride))[0].cpu()


def can_be_kept(config: Config) -> bool:
    """Tell whether a teacher's outputs can be cached.

    They can if the same augmented pictures are shown in several epochs, mixers mix the same pairs each
    time, and no loss reads feature maps, which are too large to cache.
    """
    mixed_anew = bool(config.data.mix) and (config.data.shuffle or config.mixes_per_batch)
    return num_views(config) is not None and not mixed_anew and "stages" not in config.teacher_outputs


def _examples(
    model: Classifier, teacher: Teacher | None, split: Split
) -> tuple[Output | None, Output | None]:
    """Return student's and teacher's outputs for a picture; (None, None) without teacher."""
    if teacher is None:
        return None, None
    # Some losses are built with the shapes of these outputs.
    picture = split.gather(torch.zeros(1, dtype=torch.int64))[0]
    training = model.training
    with torch.no_grad():
        student = model.eval()(picture, stages=teacher.stages)
    model.train(training)
    return student, teacher.read(teacher.ask(picture.float() / 255))


def teacher_notes(config: Config, teacher: Teacher, splits: Splits) -> list[str]:
    """Describe each teacher trained on other data or this run's validation pictures."""
    notes = []
    for member in teacher.members:
        if not has_same_pictures(member, config, splits):
            notes.append(f"the teacher {member.path} was trained on another data set")
        elif knows_validation(member, config, splits):
            notes.append(
                f"the teacher {member.path} was trained on validation pictures of this run (data.split_seed, "
                "data.val, data.classes or the size of stored pictures differ)"
            )
    return notes


def weight_notes(config: Config, model: Classifier) -> list[str]:
    """Return notes on loaded and ignored weights files and on frozen parts."""
    notes = [str(report) for report in model.loaded]
    if notes and config.model.init and getattr(config.model.backbone.options, "pretrained", False):
        notes.append("model.backbone.pretrained is ignored: model.init replaces all of the backbone")
    return notes + describe_frozen(model)


def refuse_to_remove_a_source(config: Config, folder: Path, teacher: Teacher | None) -> None:
    """Raise ConfigError if --fresh would remove the teacher or initial weights."""
    sources = [member.path for member in teacher.members] if teacher else []
    sources += [config.model.init] if config.model.init else []
    for source in sources:
        path = Path(source).expanduser().resolve()
        if folder.resolve() in (path, path.parent):
            raise ConfigError(f"--fresh would remove {source}, which this run needs; use --name")


def count_macs(model: nn.Module, image_size: int) -> int:
    """Count the multiply-adds of convolutions and matrix products for a picture."""
    parameter = next(model.parameters())
    picture = torch.zeros(1, 3, image_size, image_size, device=parameter.device)
    was_training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(picture, image_size)
    model.train(was_training)
    return counter.get_total_flops() // 2
