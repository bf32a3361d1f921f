"""`Teacher`: one trained classifier or several, frozen, that answer for the views a student is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifarlab import recipes
from cifarlab.checkpoint import file_digest
from cifarlab.config import Config, TeacherConfig
from cifarlab.device import Precision, pick_precision
from cifarlab.models.sizes import check_sizes
from cifarlab.records import Batch, Output
from cifarlab.registry import ConfigError, did_you_mean
from cifarlab.run import Run
from cifarlab.trained import Trained, best_of, load_trained

# Pictures in a forward pass: bounded by their pixels, since a teacher may see them at seven times a student's
# size.
PIXELS_PER_PASS = 250 * 224 * 224
PICTURES_PER_PASS = 500


@dataclass(frozen=True)
class Member:
    """A trained model, its file, and the size and arithmetic in which it answers."""

    trained: Trained
    path: Path
    sha256: str
    image_size: int
    precision: Precision

    def __str__(self) -> str:
        name = self.trained.config.model.backbone.name
        return f"{self.path} ({name} at {self.image_size} px, {self.precision}, sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class Answers:
    """What a teacher says of a batch, before it is calibrated.

    logits: (B, M, C), of each of M members. embedding: (B, D), the members' side by side. stages: the one
    member's feature maps.
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...] = ()


class Teacher:
    """Trained classifiers, always in evaluation mode, that know nothing of the labels.

    It is no module, so that no optimizer and no checkpoint of the student can hold its weights. temperatures:
    what each member's logits are divided by; see `calibration`. scale: of one member's head that compares
    directions, before that; read off its answers.
    """

    def __init__(self, members: Sequence[Member], stages: bool = False):
        self.members, self.stages = tuple(members), stages
        for member in self.members:
            member.trained.model.eval().requires_grad_(False)
        self.temperatures = [1.0] * len(self.members)
        self.scale: float | None = None

    def __str__(self) -> str:
        return " and ".join(map(str, self.members))

    @property
    def temperatures(self) -> list[float]:
        return self._temperatures.tolist()

    @temperatures.setter
    def temperatures(self, values: Sequence[float]) -> None:
        # On the device: a step must not wait for the host.
        device = self.members[0].precision.device
        self._temperatures = torch.tensor(values, dtype=torch.float32, device=device)

    def begin(self, view: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Nothing to prepare: it answers for any view."""

    def answer(self, batch: Batch, positions: Tensor) -> Output:
        """What the teacher says of the batch's views, calibrated."""
        return self.read(self.ask(batch.images))

    @torch.no_grad()
    def ask(self, images: Tensor) -> Answers:
        """What each member says of (B, 3, H, W) views in [0, 1]; each resizes and normalises for itself."""
        said = [self._ask_member(member, images) for member in self.members]
        logits = torch.stack([answers.logits for answers in said], dim=1)
        return Answers(logits, torch.cat([answers.embedding for answers in said], dim=1), said[0].stages)

    def _ask_member(self, member: Member, images: Tensor) -> Answers:
        count = max(1, min(PICTURES_PER_PASS, PIXELS_PER_PASS // member.image_size**2))
        said = []
        for chunk in images.split(count):
            with member.precision.autocast():
                view = member.precision.layout(chunk)
                output = member.trained.model(view, size=member.image_size, stages=self.stages)
            said.append(
                (output.logits.float(), output.embedding.float(), *(s.float() for s in output.stages))
            )
            # The members' mean has no directions.
            self.scale = (
                float(output.scale) if len(self.members) == 1 and output.cosines is not None else None
            )
        logits, embedding, *stages = (torch.cat(parts) for parts in zip(*said, strict=True))
        return Answers(logits, embedding, tuple(stages))

    def read(self, answers: Answers) -> Output:
        """Calibrated answers: of several members the mean of their logits.

        A teacher that compares directions gives cosines and the scale at which they are calibrated.
        """
        logits = self.mean_logits(answers.logits)
        if self.scale is None:
            return Output(logits, answers.embedding, answers.stages)
        scale = self.scale / self._temperatures[0]
        return Output(logits, answers.embedding, answers.stages, cosines=logits / scale, scale=scale)

    def mean_logits(self, logits: Tensor) -> Tensor:
        """(B, M, C) logits of the members to the calibrated mean (B, C)."""
        return (logits / self._temperatures[:, None]).mean(1)


def calibration(logits: Tensor, labels: Tensor) -> float:
    """The temperature that makes the cross-entropy of (N, C) logits / temperature least (Guo et al. 2017).

    Searched for in 0.05 to 20: pictures that are all classified rightly have no such temperature.
    """
    logits = logits.double()
    target = logits.gather(1, labels[:, None])[:, 0]
    low, high = 1 / 20, 20.0  # Of 1 / temperature, in which the loss is convex: its slope crosses zero once.
    for _ in range(60):
        middle = (low * high) ** 0.5
        expected = (logits * (logits * middle).softmax(-1)).sum(-1)
        low, high = (low, middle) if (expected - target).mean() > 0 else (middle, high)
    return 1 / (low * high) ** 0.5


def find_teacher(name: str, seed: int, runs: Path) -> Path:
    """The checkpoint that `teacher.run` names: a file, a run's folder, or a run's name below `runs`.

    Raises ConfigError for one that is not there, or whose run is not finished, with the command that trains
    it.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    for folder in (path, path / str(seed), runs / name / str(seed)):
        run = Run(folder)
        if run.started or run.best_path.is_file():
            if not run.summary_path.is_file():
                raise ConfigError(f"{run} is not finished; {_how_to_train(name, seed)}", ("teacher", "run"))
            return best_of(folder)
    raise ConfigError(
        f"no run {name!r} with seed {seed} in {runs}; {_how_to_train(name, seed, runs)}", ("teacher", "run")
    )


def missing_teachers(teacher: TeacherConfig | None, runs: Path) -> list[str]:
    """The names in `teacher.run` that are recipes and have no finished run."""
    missing = []
    for name in teacher.runs if teacher else ():
        try:
            find_teacher(name, teacher.seed if teacher else 0, runs)
        except ConfigError:
            if name in recipes.names():
                missing.append(name)
    return missing


def _how_to_train(name: str, seed: int, runs: Path | None = None) -> str:
    if name in recipes.names():
        command = f"cifarlab train {name}" + (f" train.seed={seed}" if seed else "")
        return f"train it with `{command}`, or add --train-teacher to this command"
    found = {p.parents[1].relative_to(runs).as_posix() for p in runs.rglob("summary.json")} if runs else set()
    return did_you_mean(name, found | set(recipes.names())) or "name a run's folder or a checkpoint"


def load_teacher(config: Config, classes: Sequence[str], device: torch.device, runs: Path) -> Teacher:
    """The teacher of a recipe, on `device`. Raises ConfigError for one that is missing or does not fit."""
    assert config.teacher is not None
    lesson = config.teacher
    members = []
    for run in lesson.runs:
        path = find_teacher(run, lesson.seed, runs)
        try:
            trained = load_trained(path, str(device))
            _refuse_other_classes(path, trained.model.classes, classes)
            if lesson.image_size:
                name = trained.config.model.backbone.name
                check_sizes(trained.model, name, [lesson.image_size], ("teacher", "image_size"))
            members.append(
                Member(trained, path, file_digest(path), lesson.image_size or trained.model.image_size,
                       _precision(lesson.precision, trained.config.train.precision, device))
            )  # fmt: skip
        except ConfigError as error:
            if error.path[:1] == ("teacher",):
                raise
            raise ConfigError(str(error), ("teacher", "run")) from None
    if "stages" in config.lessons and len(members) > 1:
        raise ConfigError("feature maps of several teachers have no mean; name one", ("teacher", "run"))
    return Teacher(members, stages="stages" in config.lessons)


def _precision(asked: str, own: str, device: torch.device) -> Precision:
    wanted = own if asked == "own" else asked
    # A teacher that was trained on a GPU in float16 can answer on a CPU, too.
    return pick_precision("auto" if wanted == "float16" and device.type != "cuda" else wanted, device)


def _refuse_other_classes(path: Path, known: Sequence[str], classes: Sequence[str]) -> None:
    if len(known) != len(classes):
        raise ConfigError(f"{path} tells {len(known)} classes apart, this run has {len(classes)}")
    for label, (there, here) in enumerate(zip(known, classes, strict=True)):
        if there != here:
            raise ConfigError(f"{path} calls class {label} {there!r}, this run {here!r}: other classes")
