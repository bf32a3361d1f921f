"""The tutorial's side of a comparison, written out: its data set class and model, from the same weights."""

from __future__ import annotations

import os
import warnings
from typing import Any

import cv2
import numpy as np
import timm
from torch import Tensor, nn
from torch.utils.data import Dataset

from cifarlab.data.splits import Split


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
