"""The tutorial's side of a comparison, written out: data set class, model, epoch, from the same weights."""

from __future__ import annotations

import os
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cifarlab.config import Config
from cifarlab.data.splits import Split
from cifarlab.prepare import Job

# Files of weights that the tutorial's callback keeps.
KEPT = 5


class TutorialPictures(Dataset):
    """The tutorial's data set class: transpose, resize, augment, transpose and scale, picture by picture."""

    def __init__(self, split: Split, image_size: int, augmented: bool):
        self.images = split.images[split.rows].cpu().numpy()
        self.labels = split.labels.tolist()
        self.image_size = image_size
        self.augment = _tutorial_policy() if augmented else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = np.transpose(self.images[index], (1, 2, 0))
        image = cv2.resize(image, (self.image_size, self.image_size), interpolation=cv2.INTER_LINEAR)
        if self.augment is not None:
            image = self.augment(image=image)["image"]
        image = np.transpose(image, (2, 0, 1))
        return image.astype(np.float32) / 255.0, np.array(self.labels[index], dtype=np.int64)


def _tutorial_policy() -> Any:
    # It would ask the package index for a newer version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations  # Not needed where nothing is augmented.

    with warnings.catch_warnings():
        # albumentations would rather have Affine than ShiftScaleRotate.
        warnings.simplefilter("ignore", UserWarning)
        choices = [
            albumentations.ShiftScaleRotate(),
            albumentations.CoarseDropout(),
            albumentations.ColorJitter(),
            albumentations.HorizontalFlip(),
            albumentations.VerticalFlip(),
        ]
    return albumentations.OneOf(choices, p=1.0)


class TutorialModel(nn.Module):
    """timm's ResNet-18 as a feature extractor, its last stage pooled, one linear layer."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.backbone = timm.create_model("resnet18", pretrained=False, features_only=True)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images)[-1])


def give_weights(ours: nn.Module, tutorial: TutorialModel) -> None:
    """Copy the weights of a `resnet18` with a linear head into the tutorial's model."""
    backbone = ours.get_submodule("backbone").state_dict()
    tutorial.backbone.load_state_dict({name: value.contiguous() for name, value in backbone.items()})
    tutorial.head[2].load_state_dict(ours.get_submodule("head.fc").state_dict())


def quiet_worker(worker: int) -> None:
    # OpenCV's own threads do not survive a fork.
    cv2.setNumThreads(0)


class Tutorial:
    """An epoch as the tutorial's pipeline runs it. tuned: A' instead of A."""

    def __init__(self, config: Config, job: Job, workers: tuple[int, int], tuned: bool):
        self.tuned, self.device = tuned, job.engine.device
        self.clip = config.train.grad_clip or float("inf")
        self.model = TutorialModel(len(job.splits.classes))
        give_weights(job.engine.model, self.model)
        self.layout = torch.channels_last if tuned else torch.contiguous_format
        self.model.to(device=self.device).to(memory_format=self.layout)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay
        )
        assert job.splits.test is not None, "the recipe scores on test"
        self.train_loader, self.test_loader = (
            self._loader(split, config, number)
            for split, number in zip((job.splits.train, job.splits.test), workers, strict=True)
        )
        self.kept: list[tuple[float, Path]] = []
        self.epoch = 0

    def _loader(self, split: Split, config: Config, workers: int) -> DataLoader:
        pictures = TutorialPictures(split, config.data.image_size, augmented=False)
        return DataLoader(
            pictures,
            config.data.batch_size,
            num_workers=workers,
            worker_init_fn=quiet_worker,
            persistent_workers=self.tuned and workers > 0,
            pin_memory=self.tuned and self.device.type == "cuda",
        )

    def run_epoch(self, folder: Path) -> float:
        """Seconds of an epoch: every training picture, every test picture, the files."""
        begun = now(self.device)
        self.model.train()
        for images, labels in self.train_loader:
            self.step(images, labels)
        self._save(self.score(), folder)
        return now(self.device) - begun

    def step(self, images: Tensor, labels: Tensor) -> float:
        images, labels = self._to_device(images), labels.to(self.device, non_blocking=True)
        with self._autocast():
            loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()  # what `self.log("loss", loss, prog_bar=True)` comes to

    def _to_device(self, images: Tensor) -> Tensor:
        return images.to(self.device, non_blocking=True).contiguous(memory_format=self.layout)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.tuned else nullcontext()

    @torch.no_grad()
    def score(self) -> float:
        self.model.eval()
        right = 0
        for images, labels in self.test_loader:
            with self._autocast():
                guesses = self.model(self._to_device(images)).argmax(-1)
            right += (guesses == labels.to(self.device)).sum().item()
        return right

    def _save(self, score: float, folder: Path) -> None:
        """A file of weights and optimizer for each of the best epochs, as Lightning's callback keeps them."""
        self.epoch += 1
        most = 1 if self.tuned else KEPT
        if len(self.kept) == most and score <= self.kept[-1][0]:
            return
        path = folder / f"{self.epoch}.ckpt"
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
        self.kept = sorted([*self.kept, (score, path)], reverse=True)
        for _, old in self.kept[most:]:
            old.unlink()
        del self.kept[most:]


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
