"""`Teacher`: one or several frozen classifiers, whose outputs a student learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.core.device import Precision
from cifarlab.runs.model import Trained

# Limits of a forward pass. The number of pixels is limited, too, since a teacher may see pictures at seven
# times the student's side length.
PIXELS_PER_PASS = 250 * 224 * 224
PICTURES_PER_PASS = 500


@dataclass(frozen=True)
class Member:
    """One classifier of a teacher.

    Attributes:
        trained: The model, with facts about its run.
        path: Path of the checkpoint.
        sha256: sha256 of the checkpoint, as hex digits.
        image_size: Side in pixels to which pictures are resized for this classifier.
        precision: Precision and device of the forward passes.
    """

    trained: Trained
    path: str
    sha256: str
    image_size: int
    precision: Precision

    def __str__(self) -> str:
        name = self.trained.saved.model.backbone.name
        return f"{self.path} ({name} at {self.image_size} px, {self.precision}, sha256 {self.sha256[:12]})"


@dataclass(frozen=True)
class Answers:
    """The outputs of a teacher with M members for a batch, before calibration.

    Attributes:
        logits: (B, M, C), the logits of each member.
        embedding: (B, D), the concatenated embeddings of the members. (B, 0) if no loss reads them.
        stages: Feature maps, one of each stage of the backbone. Empty if no loss reads them or there are
            several members.
        scale: The factor between cosines and logits. None if there are several members, or the head of the
            only member does not compute cosines.
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...] = ()
    scale: float | Tensor | None = None


class Teacher:
    """One or several trained classifiers, always in evaluation mode. They never see the labels.

    A teacher is not a module, so that neither the optimizer nor a checkpoint of the student includes its
    weights.

    Args:
        members: The classifiers.
        outputs: Names of the outputs that losses read, see `Config.teacher_outputs`.

    Attributes:
        temperatures: For each member, the number that its logits are divided by. 1 before calibration.
    """

    def __init__(self, members: Sequence[Member], outputs: frozenset[str]):
        self.members, self.outputs = tuple(members), outputs
        for member in self.members:
            member.trained.model.eval().requires_grad_(False)
        self.temperatures = [1.0] * len(self.members)

    def __str__(self) -> str:
        return " and ".join(map(str, self.members))

    @property
    def stages(self) -> bool:
        """Whether a loss reads feature maps."""
        return "stages" in self.outputs

    @property
    def temperatures(self) -> list[float]:
        """For each member, the number that its logits are divided by."""
        return self._temperatures.tolist()

    @temperatures.setter
    def temperatures(self, values: Sequence[float]) -> None:
        # Stored on the device, so that a step does not wait for a copy from the host.
        device = self.members[0].precision.device
        self._temperatures = torch.tensor(values, dtype=torch.float32, device=device)

    def begin(self, view: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Do nothing: this teacher computes its outputs when `answer` is called."""

    def answer(self, batch: Batch, positions: Tensor) -> Output:  # noqa: ARG002  as `Source`
        """Return the calibrated outputs for the augmented pictures of a batch.

        `positions` are not used. `Replay`, the cached teacher, needs them.
        """
        return self.read(self.ask(batch.images))

    @torch.no_grad()
    def ask(self, images: Tensor) -> Answers:
        """Return the members' uncalibrated outputs.

        Args:
            images: Pictures (B, 3, H, W) in [0, 1]. Each member resizes and normalises them itself.
        """
        said = [self._ask_member(member, images) for member in self.members]
        return Answers(
            torch.stack([answers.logits for answers in said], dim=1),
            torch.cat([answers.embedding for answers in said], dim=1),
            said[0].stages,
            # Several members have no common scale.
            said[0].scale if len(said) == 1 else None,
        )

    def _ask_member(self, member: Member, images: Tensor) -> Answers:
        count = max(1, min(PICTURES_PER_PASS, PIXELS_PER_PASS // member.image_size**2))
        said, scale = [], None
        for chunk in images.split(count):
            with member.precision.autocast():
                view = member.precision.layout(chunk)
                output = member.trained.model(view, image_size=member.image_size, stages=self.stages)
            embedding = output.embedding if "embedding" in self.outputs else output.embedding[:, :0]
            said.append([values.float() for values in (output.logits, embedding, *output.stages)])
            scale = output.scale if output.cosines is not None else None
        logits, embedding, *stages = (torch.cat(parts) for parts in zip(*said, strict=True))
        return Answers(logits, embedding, tuple(stages), scale)

    def read(self, answers: Answers) -> Output:
        """Return calibrated outputs, with the mean of the members' logits.

        If `answers` has a scale, the result also has the cosines, and that scale divided by the temperature.
        """
        logits = self.mean_logits(answers.logits)
        if answers.scale is None:
            return Output(logits, answers.embedding, answers.stages)
        scale = answers.scale / self._temperatures[0]
        return Output(logits, answers.embedding, answers.stages, cosines=logits / scale, scale=scale)

    def mean_logits(self, logits: Tensor) -> Tensor:
        """Divide logits by `temperatures` and average over the members.

        (B, M, C) to (B, C).
        """
        return (logits / self._temperatures[:, None]).mean(1)
