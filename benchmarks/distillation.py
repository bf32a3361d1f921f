"""Distillation at the scale of a CPU: a student alone and taught, the same recipe and budget, three seeds.

    python benchmarks/distillation.py --init runs/tiny_imagenet_resnet18/0 --root FOLDER_OF_CIFAR100

The teacher is a ResNet-18 at 64 px that began as the run --init, one for each seed, trained on the very
pictures that its student sees. Trains what is missing (two hours on two CPU cores), then writes
docs/results/distillation.{md,png} and benchmarks/results/distillation.json.
"""

import argparse
from pathlib import Path
from typing import Any

from study import (
    Arm,
    figures_of,
    mean_and_spread,
    paired,
    parser,
    plot,
    points,
    stands_on,
    train_all,
    write,
)

from cifarlab.runs.folder import Run

ALONE, KD, DKD, TEACHER = "alone", "KD", "DKD", "teacher"


def main() -> None:
    options = parser(__doc__, "runs/distillation", 16)
    options.add_argument("--init", type=Path, required=True, help="the run of tiny_imagenet_resnet18")
    options.add_argument("--classes", type=int, default=20)
    options.add_argument("--limit", type=int, default=2500, help="training pictures")
    arguments = options.parse_args()
    runs = train_all(arms_of(arguments), arguments)
    results: dict[str, Any] = {name: [figures_of(run) for run in seeds] for name, seeds in runs.items()}
    test = {name: [run["test_top1"] for run in seeds] for name, seeds in results.items()}
    differences = {name: paired(test[name], test[ALONE]) for name in (KD, DKD)}
    figures = {
        "classes": arguments.classes, "limit": arguments.limit, "epochs": arguments.epochs,
        "source": figures_of(Run(arguments.init)), "arms": results, "differences": differences,
    }  # fmt: skip
    students = {name: results[name] for name in (ALONE, KD, DKD)}
    plot(students, arguments.out / "docs" / "results" / "distillation.png",
         f"ResNet 8x4 on {arguments.classes} classes of CIFAR-100, alone and taught")  # fmt: skip
    write(arguments.out, "distillation", figures, page(figures))


def arms_of(arguments: argparse.Namespace) -> list[Arm]:
    """The teacher first; students differ from each other in what they are taught."""
    subset = (f"data.classes={arguments.classes}", f"data.limit={arguments.limit}", "data.val=0.1",
              "train.select=val")  # fmt: skip
    teacher = (
        "data.image_size=64", f"model.init={arguments.init.absolute()}", "optim.schedule=one_cycle",
        "data.augment={crop: {}, flip: {p: 0.5}}", *subset,
    )  # fmt: skip
    return [
        Arm(TEACHER, "resnet18_pretrained", teacher),
        Arm(ALONE, "resnet8x4", subset),
        Arm(KD, "resnet8x4_kd", (*subset, f"teacher.run={TEACHER}", "teacher.seed=SEED")),
        Arm(DKD, "resnet8x4_dkd", (*subset, f"teacher.run={TEACHER}", "teacher.seed=SEED")),
    ]


def page(figures: dict[str, Any]) -> list[str]:
    """The lines of the Markdown page."""
    results, differences = figures["arms"], figures["differences"]
    seeds = len(results[ALONE])
    lines = [
        "# Distillation, at the scale of a CPU",
        "",
        f"A ResNet 8x4 on the first {figures['classes']} classes of CIFAR-100, {figures['limit']:,} training "
        f"pictures, {figures['epochs']} epochs of `benchmarks/recipes/resnet8x4.yaml`; alone, and taught by "
        "a ResNet-18 at 64 px that was pretrained on Tiny-ImageNet and fine-tuned on the very same pictures "
        f"(`resnet8x4_kd.yaml`, `resnet8x4_dkd.yaml` beside it). Seeds 0 to {seeds - 1}; a student and its "
        "teacher share the seed, so the split.",
        "",
        "![Curves: the mean over seeds, and all seeds as a band](distillation.png)",
        "",
        "| | test, % | difference from alone, points, 95 % interval | seconds |",
        "|---|---|---|---|",
    ]
    for name, runs in results.items():
        test = mean_and_spread([run["test_top1"] for run in runs])
        worth = points(differences[name]) if name in differences else "-"
        seconds = sum(run["seconds"] for run in runs) / len(runs)
        lines.append(f"| {name} | {test} | {worth} | {seconds:.0f} |")
    lines += [
        "",
        "Test top-1, read once for the epoch that validation chose: mean ± standard deviation over seeds. "
        "Differences are paired by seed (same pictures, same order), Student's t over the seeds. Seconds: "
        "of a run, a teacher's answers included and its training not, on a machine that did other work, too. "
        "The teachers were pretrained on other pictures (Tiny-ImageNet), from which part of the gain comes.",
        "",
        "The teachers, measured before training (`summary.json`, `distillation`):",
        "",
        "| seed | top-1 on val, % | top-1 on training views, % | entropy at T = 4, nats | KL "
        "from uniform, nats | gradient of the KD term / of the labels' |",
        "|---|---|---|---|---|---|",
    ]
    for run in results[KD]:
        health = run["distillation"]
        term = health["terms"]["distill"]
        lines.append(
            f"| {run['seed']} | {100 * health['teacher_top1']:.1f} | {100 * health['agreement']:.1f} | "
            f"{term['entropy']:.2f} of {health['log_classes']:.2f} | {term['kl_from_uniform']:.2f} | "
            f"{term['gradient_ratio']:.2f} |"
        )
    if differences[DKD]["low"] <= 0:
        lines += [
            "",
            "DKD at its published weights (beta = 8, made for 240 epochs) gained nothing within this budget, "
            "and may have cost some points. This study cannot show why.",
        ]
    lines += [
        "",
        stands_on(results[ALONE][0]) + " Again: the command at the top of `benchmarks/distillation.py`.",
        "",
        "The published pair, ResNet 32x4 to ResNet 8x4 on all classes for 240 epochs (73.33 by KD, 76.32 by "
        "DKD): not measured yet.",
    ]
    return lines


if __name__ == "__main__":
    main()
