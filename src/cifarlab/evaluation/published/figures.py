"""Published top-1 accuracies on CIFAR-100's test pictures, with their protocols and sources."""

from __future__ import annotations

from dataclasses import dataclass

# Runs of one recipe have an estimated standard deviation of about a quarter of a point over seeds. A band
# extends two of these beyond its figures.
SPREAD = 0.5

CUTOUT = "the README of uoguelph-mlrg/Cutout"
OPENMIXUP = "openmixup's README"
WEIAICUNZAI = "the README of weiaicunzai/pytorch-cifar100"
SAM = "google-research/sam's first README"
DISTILLER = "RepDistiller and mdistiller"
FORET = "Foret et al. 2021, not re-checked"
VIT = "the README of google-research/vision_transformer"
BIT = "the README of google-research/big_transfer"
DEIT = "wr123/deit-cifar100 on Hugging Face"
SWIN = "MazenAmria/swin-tiny-finetuned-cifar100 on Hugging Face"


@dataclass(frozen=True)
class Figure:
    """One published accuracy, in percent.

    Attributes:
        top1: The accuracy.
        source: The publication.
        runs: Number of runs that it is the mean or median of. None if unknown.
        epoch: `last` for the score of the last epoch. `best` for the best of many test scores, which is
            optimistic. None if unknown.
    """

    top1: float
    source: str
    runs: int | None = None
    epoch: str | None = None


@dataclass(frozen=True)
class Anchor:
    """Published accuracies of one architecture, trained by one protocol.

    Attributes:
        name: Name of the architecture and protocol.
        backbones: Names of the backbones with this architecture, without timm's tags (`name.tag`).
        figures: The published accuracies.
        epochs: Epochs of training. None if unknown.
        augment: Kinds of augmentation: crop, flip, cutout, policy, mixup, cutmix. A policy applies learned or
            random operations, with or without Cutout.
        image_size: Side length of the model's input in pixels.
        pretrained: Data set of the pretraining. None: trained from scratch.
        sharpness: Whether the training minimizes sharpness (SAM).
        distilled: Name of the distillation loss. None: trained without a teacher.
        optimizer: sgd, adamw, or any.
    """

    name: str
    backbones: tuple[str, ...]
    figures: tuple[Figure, ...]
    epochs: int | None = 200
    augment: frozenset[str] = frozenset({"crop", "flip"})
    image_size: int = 32
    pretrained: str | None = None
    sharpness: bool = False
    distilled: str | None = None
    optimizer: str = "sgd"

    @property
    def band(self) -> tuple[float, float]:
        """Return the range of accuracies, in percent, to expect from this protocol.

        It reaches from `SPREAD` below the lowest published figure to `SPREAD` above the highest.
        """
        found = [figure.top1 for figure in self.figures]
        return round(min(found) - SPREAD, 2), round(max(found) + SPREAD, 2)

    @property
    def sources(self) -> str:
        """Return the publications of the figures, each once."""
        return " and ".join(dict.fromkeys(figure.source for figure in self.figures))


def _with(*more: str) -> frozenset[str]:
    return frozenset({"crop", "flip", *more})


def _student(name: str, backbone: str, alone: float, *taught: tuple[str, float]) -> tuple[Anchor, ...]:
    """Return the anchors of a student network in distillation benchmarks.

    `alone` is its accuracy without a teacher. `taught` holds distillation losses, each with its accuracy. All
    are trained for 240 epochs.
    """
    anchors = [Anchor(name, (backbone,), (Figure(alone, DISTILLER),), epochs=240)]
    anchors += [Anchor(f"{name} taught by {loss}", (backbone,), (Figure(top1, DISTILLER),), epochs=240,
                       distilled=loss) for loss, top1 in taught]  # fmt: skip
    return tuple(anchors)


# Augmentations of DeiT beside crop and flip: RandAugment, random erasing, mixup and CutMix.
STRONG = ("policy", "cutout", "mixup", "cutmix")


def _tuned(
    name: str,
    backbones: tuple[str, ...],
    *figures: Figure,
    size: int = 224,
    on: str = "ImageNet-1k",
    epochs: int | None = None,
    augment: frozenset[str] = frozenset({"flip"}),
) -> Anchor:
    """Return the anchor of a pretrained network, fine-tuned at `size` px."""
    return Anchor(f"{name}, fine-tuned", backbones, figures, epochs, augment, size, on, optimizer="any")


ANCHORS: tuple[Anchor, ...] = (
    Anchor("ResNet-18", ("resnet18",), (
        Figure(77.54, CUTOUT, runs=5), Figure(76.42, OPENMIXUP), Figure(75.61, WEIAICUNZAI))),
    Anchor("ResNet-18 with Cutout", ("resnet18",), (Figure(78.04, CUTOUT, runs=5),), augment=_with("cutout")),
    Anchor("ResNet-18 with mixup", ("resnet18",), (Figure(78.52, OPENMIXUP),), augment=_with("mixup")),
    Anchor("ResNet-18 with CutMix", ("resnet18",), (Figure(79.45, OPENMIXUP),), augment=_with("cutmix")),
    Anchor("ResNet-50", ("resnet50",), (
        Figure(79.90, "mmpretrain's model zoo"), Figure(77.39, WEIAICUNZAI))),
    Anchor("WRN-28-10", ("wrn_28_10",), (
        Figure(81.2, SAM, runs=5), Figure(80.75, "the README of szagoruyko/wide-residual-networks", runs=5))),
    Anchor("WRN-28-10 with Cutout", ("wrn_28_10",), (
        Figure(83.0, SAM, runs=5), Figure(81.6, "Cubuk et al. 2019")), augment=_with("cutout")),
    Anchor("WRN-28-10 with a policy", ("wrn_28_10",), (
        Figure(84.1, SAM, runs=5), Figure(82.9, "Cubuk et al. 2019"), Figure(83.3, "Cubuk et al. 2020")),
        augment=_with("policy")),
    Anchor("WRN-28-10 with SAM", ("wrn_28_10",), (Figure(83.5, FORET),), sharpness=True),
    Anchor("WRN-28-10 with Cutout and SAM", ("wrn_28_10",), (Figure(85.1, FORET),),
           augment=_with("cutout"), sharpness=True),
    Anchor("WRN-28-10 with a policy and SAM", ("wrn_28_10",), (Figure(86.1, FORET),),
           augment=_with("policy"), sharpness=True),
    Anchor("CCT-7/3x1", ("cct_7_3x1",), (Figure(77.05, "Hassani et al. 2021"),),
           augment=_with("policy", "mixup", "cutmix"), optimizer="adamw"),
    Anchor("ViT-Lite-7/4", ("vit_lite_7_4",), (Figure(69.75, "Hassani et al. 2021"),),
           augment=_with("policy", "mixup", "cutmix"), optimizer="adamw"),
    *_student("ResNet-8x4", "resnet8x4", 72.50, ("distill", 73.33), ("dkd", 76.32)),
    *_student("WRN-16-2", "wrn_16_2", 73.26, ("distill", 74.92), ("dkd", 76.23)),
    *_student("WRN-40-1", "wrn_40_1", 71.98, ("distill", 73.54), ("dkd", 74.81)),
    *_student("VGG-8", "cifar_vgg8", 70.36, ("distill", 72.98), ("dkd", 74.68)),
    *_student("ShuffleNetV2", "cifar_shufflenet_v2", 71.82, ("distill", 74.45), ("dkd", 77.07)),
    *_student("ResNet-32x4", "resnet32x4", 79.42),
    *_student("WRN-40-2", "wrn_40_2", 75.61),
    *_student("VGG-13", "cifar_vgg13", 74.64),
    Anchor("ResNet-18 at 224, fine-tuned, in the tutorial", ("resnet18",), (
        Figure(79.57, "DocsaidLab's CIFAR-100 demo", runs=1, epoch="best"),),
        augment=frozenset(), image_size=224, pretrained="ImageNet-1k", optimizer="adamw"),
    Anchor("ResNet-50 at 224, fine-tuned, in the tutorial", ("resnet50",), (
        Figure(81.21, "DocsaidLab's CIFAR-100 demo", runs=1, epoch="best"),),
        augment=frozenset(), image_size=224, pretrained="ImageNet-1k", optimizer="adamw"),
    _tuned("DeiT-T", ("deit_tiny_patch16_224",), Figure(81.65, DEIT), epochs=30, augment=_with(*STRONG)),
    _tuned("DeiT-S", ("deit_small_patch16_224",), Figure(87.54, DEIT), epochs=30, augment=_with(*STRONG)),
    _tuned("DeiT-B", ("deit_base_patch16_224",), Figure(90.04, DEIT), epochs=30, augment=_with(*STRONG)),
    _tuned("Swin-T", ("swin_tiny_patch4_window7_224",), Figure(87.35, SWIN, runs=1, epoch="best"), epochs=5),
    _tuned("ViT-B/16", ("vit_base_patch16_224", "vit_base_patch16_384"), Figure(92.26, VIT, runs=1),
           Figure(92.64, VIT, runs=1), size=384, on="ImageNet-21k"),
    _tuned("ViT-L/16", ("vit_large_patch16_224", "vit_large_patch16_384"), Figure(93.04, VIT, runs=1),
           Figure(93.00, VIT, runs=1), size=384, on="ImageNet-21k"),
    _tuned("BiT-M R50x1", ("resnetv2_50x1_bit",), Figure(86.6, BIT, runs=5), size=128, on="ImageNet-21k",
           augment=_with("mixup")),
    _tuned("BiT-M R101x3", ("resnetv2_101x3_bit",), Figure(91.2, BIT, runs=5), size=128, on="ImageNet-21k",
           augment=_with("mixup")),
    _tuned("EfficientNet-B7", ("efficientnet_b7", "tf_efficientnet_b7"), Figure(91.7, "Tan and Le 2019")),
)  # fmt: skip
