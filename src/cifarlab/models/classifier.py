"""`Classifier`: a backbone and a head for pictures of any size, with its own normalisation and resizing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.config import ModelConfig
from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError, reason_of
from cifarlab.core.registry import Spec
from cifarlab.models.cpu_convolutions.depthwise import use_depthwise
from cifarlab.models.cpu_convolutions.live_taps import use_live_taps
from cifarlab.models.cpu_convolutions.strided_taps import use_strided_taps
from cifarlab.models.layers import hidden_matrices, layer_depths
from cifarlab.models.prediction import Picture, Prediction, as_pictures, in_batches
from cifarlab.models.weights import LoadReport, init_from

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and standard deviation of each channel, in [0, 1]

NORMALIZATIONS: dict[str, Statistics] = {
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def resize_batch(images: Tensor, size: int) -> Tensor:
    """Resize (B, C, h, w) floats to (B, C, size, size).

    The interpolation is bilinear, antialiased if the pictures shrink.
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    shrinks = size < height or size < width
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=shrinks)


class Classifier(nn.Module):
    """A backbone and a head, with resizing and normalisation of the input.

    Args:
        backbone: Maps (B, 3, S, S) normalised pictures to (B, F) features.
        head: Maps (B, F) features to an Output.
        image_size: S, the side length in pixels.
        mean: Mean of each channel, in [0, 1]. Mean and std are buffers, so that a checkpoint contains them.
        std: Standard deviation of each channel.
        classes: Class names in the order of their labels, or the number of classes.

    Attributes:
        loaded: Reports on weights that were read from files, for the run's record.
        norms_in_eval: Names of batch norms that stay in evaluation mode during training.
        store_size: Side length in pixels at which training pictures were stored, before resizing to
            `image_size`. It is `image_size` unless the model was loaded from a run.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        *,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        classes: int | Sequence[str],
    ):
        super().__init__()
        self.backbone, self.head, self.image_size = backbone, head, image_size
        names = [str(label) for label in range(classes)] if isinstance(classes, int) else classes
        self.classes: tuple[str, ...] = tuple(names)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.loaded: tuple[LoadReport, ...] = ()
        # Names, not modules, so that a copy of the classifier refers to its own batch norms.
        self.norms_in_eval: tuple[str, ...] = ()
        self.store_size = image_size

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.classes)

    @property
    def num_features(self) -> int:
        """Return the embedding's width: the head's `num_features`, else the backbone's."""
        return getattr(self.head, "num_features", None) or self.backbone.num_features  # type: ignore[return-value]

    def layer_depths(self) -> dict[str, int]:
        """Return how many layers each backbone parameter lies below the head."""
        return {f"backbone.{name}": depth for name, depth in layer_depths(self.backbone).items()}

    def hidden_matrices(self) -> list[str]:
        """Return the names of the backbone's hidden matrices (see `layers.hidden_matrices`)."""
        return [f"backbone.{name}" for name in hidden_matrices(self.backbone)]

    def fit(self, images: Tensor) -> None:
        """Let the backbone set weights that depend on the training pictures.

        Backbones without a method `fit` are left unchanged. images: (N, 3, h, w) uint8, or floats in [0, 1].
        """
        fit: Any = getattr(self.backbone, "fit", None)
        if fit is not None:
            with torch.no_grad():
                fit(self.preprocess(images))

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode.

        Batch norms named in `norms_in_eval` always stay in evaluation mode.
        """
        super().train(mode)
        for name in self.norms_in_eval:
            self.get_submodule(name).eval()
        return self

    def preprocess(self, images: Tensor, image_size: int | None = None) -> Tensor:
        """Convert pictures to the backbone's input, (B, 3, S, S) float32.

        Pictures are (B, 3, h, w) uint8, or floats in [0, 1]. S is `image_size`, by default the model's own.
        """
        # Outside autocast: bf16 has 8 bits of precision, so it would round the pictures themselves.
        with torch.autocast(images.device.type, enabled=False):
            images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
            return (resize_batch(images, image_size or self.image_size) - self.mean) / self.std

    @torch.inference_mode()
    def predict(
        self, pictures: Picture | Iterable[Picture], *, top: int = 5, image_size: int | None = None
    ) -> list[Prediction]:
        """Return the most probable classes of pictures.

        Args:
            pictures: One picture or several: a file's path, a PIL image, a numpy array (H, W, 3) of uint8, or
                a tensor (3, H, W) of uint8 or of floats in [0, 1]; also a batch in one array or tensor.
            top: How many classes to return for each picture.
            image_size: Side length in pixels at which the model sees the pictures. None: the size that it was
                trained at.

        Returns:
            One `Prediction` for each picture, in their order.

        Raises:
            ConfigError: If a picture cannot be read, or has another shape or range of values; if `top` or
                `image_size` is below 1.

        Example:
            >>> model = cifarlab.load("runs/demo/0")
            >>> model.predict("cat.jpg")[0].label
            'tabby'
        """
        if top < 1:
            raise ConfigError(f"top: must be at least 1 class, got {top}")
        size, given = self.image_size if image_size is None else image_size, as_pictures(pictures)
        if size < 1:
            raise ConfigError(f"image_size: must be at least 1 pixel, got {size}")
        most, modes = min(top, self.num_classes), [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            found = [
                self(batch.to(self.mean.device), size).logits.float().softmax(-1).topk(most)
                for batch in in_batches(given, self.store_size, size)
            ]
        finally:
            # Not by train(): single modules may have been in evaluation mode while the model was in training
            # mode.
            for module, mode in modes:
                module.training = mode
        values = [row for best in found for row in best.values.tolist()]
        labels = [row for best in found for row in best.indices.tolist()]
        return [
            Prediction(
                picture=str(picture) if isinstance(picture, str | Path) else None,
                classes=tuple(self.classes[label] for label in row),
                probabilities=tuple(probabilities),
            )
            for picture, row, probabilities in zip(given, labels, values, strict=True)
        ]

    def forward(self, images: Tensor, image_size: int | None = None, stages: bool = False) -> Output:
        """Classify (B, 3, h, w) pictures, uint8 or floats in [0, 1].

        They are resized to `image_size`, by default the model's own. With `stages`, the output contains the
        feature maps of the backbone's stages.

        Raises:
            ConfigError: The feature maps are asked for, and the backbone names no stages.
        """
        inputs = self.preprocess(images, image_size)
        if not stages:
            return self.head(self.backbone(inputs))
        maps: dict[str, Tensor] = {}
        with _caught(self.backbone, maps):
            features = self.backbone(inputs)
        return replace(self.head(features), stages=tuple(maps.values()))


@contextmanager
def _caught(backbone: nn.Module, maps: dict[str, Tensor]) -> Iterator[None]:
    """Collect the outputs of the backbone's stages in `maps` within the context."""
    names: tuple[str, ...] = getattr(backbone, "stage_names", ())  # type: ignore[assignment]
    if not names:
        raise ConfigError("this backbone has no stages, so it has no feature maps", ("model", "backbone"))

    def catch(name: str, _module: nn.Module, _given: object, output: Tensor) -> None:
        maps[name] = output

    hooks = [backbone.get_submodule(name).register_forward_hook(partial(catch, name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def build_classifier(
    model: ModelConfig,
    image_size: int,
    num_classes: int,
    *,
    dataset_mean_std: Statistics | None = None,
    classes: Sequence[str] | None = None,
    initial: bool = True,
) -> Classifier:
    """Build a recipe's classifier on the CPU, with its initial weights.

    Args:
        model: The section `model` of the configuration.
        image_size: Side length of the pictures in pixels.
        num_classes: Number of classes.
        dataset_mean_std: Mean and std of the training pictures by channel, for `normalize: dataset`.
        classes: Class names, in the order of their labels.
        initial: Whether to read weights from the checkpoint `model.init` or, without it, the backbone's
            pretrained weights if its options ask for them. Pass False if a checkpoint is loaded afterwards.

    Raises:
        ConfigError: Weights are unavailable or do not fit, or the backbone cannot take the size.
    """
    spec = model.backbone if initial and not model.init else _without_weights(model.backbone)
    try:
        backbone = spec.build(image_size)
    except (ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, ConfigError):
            raise
        message = f"{spec.name} cannot be built: {reason_of(error)}"
        raise ConfigError(message, ("model", "backbone")) from error
    mean, std = _mean_std(model, backbone, dataset_mean_std)
    head = model.head.build(backbone.num_features, num_classes)
    names = num_classes if classes is None else classes
    classifier = Classifier(backbone, head, image_size=image_size, mean=mean, std=std, classes=names)
    if report := getattr(backbone, "loaded", None):
        classifier.loaded += (report,)
    if initial and model.init:
        classifier.loaded += (init_from(classifier, model.init),)
    return classifier


def _mean_std(model: ModelConfig, backbone: nn.Module, dataset_mean_std: Statistics | None) -> Statistics:
    if model.normalize == "dataset":
        if dataset_mean_std is None:
            raise ConfigError("this data set gives no mean and standard deviation", ("model", "normalize"))
        return dataset_mean_std
    if model.normalize == "pretrained":
        published = getattr(backbone, "pretrained_mean_std", None)
        if published is None:
            message = f"{model.backbone.name} has no published weights; set model.normalize=dataset"
            raise ConfigError(message, ("model", "normalize"))
        return published
    return NORMALIZATIONS[model.normalize]


def _without_weights(backbone: Spec) -> Spec:
    """Return the backbone's spec without pretrained weights."""
    if "pretrained" not in type(backbone.options).model_fields:
        return backbone
    return replace(backbone, options=backbone.options.model_copy(update={"pretrained": False}))


def to_device(classifier: Classifier, device: torch.device) -> Classifier:
    """Move a classifier to `device` in place, in channels_last format.

    On a CPU its convolutions are replaced by faster equivalents.
    """
    if device.type == "cpu":
        use_live_taps(classifier)  # The equivalents have not been measured on a GPU.
        use_depthwise(classifier)
        use_strided_taps(classifier)
    moved = classifier.to(device)
    return moved.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
