"""`Teacher`: one or several frozen classifiers that a student learns from."""

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
    """A classifier of a teacher.

    Attributes:
        trained: The model, with facts about its run.
        path: Path of its checkpoint.
        sha256: sha256 of its checkpoint.
        image_size: Side length in pixels at which it sees pictures.
        precision: Precision of its forward passes.
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
    """Output of a teacher for a batch, before calibration.

    Attributes:
        logits: (B, M, C), those of each of M members.
        embedding: (B, D), the concatenated embeddings of the members. (B, 0) if no loss reads them.
        stages: Feature maps. Only with a single member.
        scale: Scale of the head, if a single member has a head that gives cosines.
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
        outputs: The outputs that losses read, see `Config.teacher_outputs`.

    Attributes:
        temperatures: The divisor of each member's logits, found by calibration. 1 before.
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
        """Return the divisor of each member's logits."""
        return self._temperatures.tolist()

    @temperatures.setter
    def temperatures(self, values: Sequence[float]) -> None:
        # Stored on the device, so that a step does not wait for a copy from the host.
        device = self.members[0].precision.device
        self._temperatures = torch.tensor(values, dtype=torch.float32, device=device)

    def begin(self, view: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Do nothing: a live teacher answers for any view."""

    def answer(self, batch: Batch, positions: Tensor) -> Output:  # noqa: ARG002  as `Source`
        """Return the calibrated output for the views of a batch."""
        return self.read(self.ask(batch.images))

    @torch.no_grad()
    def ask(self, images: Tensor) -> Answers:
        """Return the members' uncalibrated outputs.

        Args:
            images: Views (B, 3, H, W) in [0, 1]. Each member resizes and normalises them itself.
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
        """Calibrate answers. Several members give the mean of their logits.

        A single member whose head gives cosines also gives these, and the scale after calibration.
        """
        logits = self.mean_logits(answers.logits)
        if answers.scale is None:
            return Output(logits, answers.embedding, answers.stages)
        scale = answers.scale / self._temperatures[0]
        return Output(logits, answers.embedding, answers.stages, cosines=logits / scale, scale=scale)

    def mean_logits(self, logits: Tensor) -> Tensor:
        """Return the calibrated mean (B, C) of members' logits (B, M, C)."""
        return (logits / self._temperatures[:, None]).mean(1)
