"""`Teacher`: one trained classifier or several, frozen, that answer for the views a student is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.core.device import Precision
from cifarlab.runs.model import Trained

# Pictures in a forward pass: bounded by their pixels, since a teacher may see them at seven times a student's
# size.
PIXELS_PER_PASS = 250 * 224 * 224
PICTURES_PER_PASS = 500


@dataclass(frozen=True)
class Member:
    """A trained model, where it was found, and the size and arithmetic in which it answers."""

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
    """What a teacher says of a batch, before it is calibrated.

    logits: (B, M, C), of each of M members. embedding: (B, D), the members' side by side, (B, 0) where no
    loss reads it. stages: the one member's feature maps. scale: of the one member's head, where it compares
    directions.
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...] = ()
    scale: float | Tensor | None = None


class Teacher:
    """Trained classifiers, always in evaluation mode, that know nothing of the labels.

    It is no module, so that no optimizer and no checkpoint of the student can hold its weights. lessons: what
    losses read of it (`Config.lessons`). temperatures: what each member's logits are divided by; see
    `calibration`.
    """

    def __init__(self, members: Sequence[Member], lessons: frozenset[str]):
        self.members, self.lessons = tuple(members), lessons
        for member in self.members:
            member.trained.model.eval().requires_grad_(False)
        self.temperatures = [1.0] * len(self.members)

    def __str__(self) -> str:
        return " and ".join(map(str, self.members))

    @property
    def stages(self) -> bool:
        """Whether a loss reads feature maps."""
        return "stages" in self.lessons

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
        return Answers(
            torch.stack([answers.logits for answers in said], dim=1),
            torch.cat([answers.embedding for answers in said], dim=1),
            said[0].stages,
            # The members' mean has no directions.
            said[0].scale if len(said) == 1 else None,
        )

    def _ask_member(self, member: Member, images: Tensor) -> Answers:
        count = max(1, min(PICTURES_PER_PASS, PIXELS_PER_PASS // member.image_size**2))
        said, scale = [], None
        for chunk in images.split(count):
            with member.precision.autocast():
                view = member.precision.layout(chunk)
                output = member.trained.model(view, size=member.image_size, stages=self.stages)
            embedding = output.embedding if "embedding" in self.lessons else output.embedding[:, :0]
            said.append([values.float() for values in (output.logits, embedding, *output.stages)])
            scale = output.scale if output.cosines is not None else None
        logits, embedding, *stages = (torch.cat(parts) for parts in zip(*said, strict=True))
        return Answers(logits, embedding, tuple(stages), scale)

    def read(self, answers: Answers) -> Output:
        """Calibrated answers: of several members the mean of their logits.

        A teacher that compares directions gives cosines and the scale at which they are calibrated.
        """
        logits = self.mean_logits(answers.logits)
        if answers.scale is None:
            return Output(logits, answers.embedding, answers.stages)
        scale = answers.scale / self._temperatures[0]
        return Output(logits, answers.embedding, answers.stages, cosines=logits / scale, scale=scale)

    def mean_logits(self, logits: Tensor) -> Tensor:
        """(B, M, C) logits of the members to the calibrated mean (B, C)."""
        return (logits / self._temperatures[:, None]).mean(1)
