"""The ladder at the scale of a CPU: every rung in order, the same small ResNet, several seeds.

    python benchmarks/ladder.py --root FOLDER_OF_CIFAR100

Trains what is missing (two hours on two CPU cores), then writes docs/results/ladder.{md,png} and
benchmarks/results/ladder.json. With --seed K it only trains that seed: two of them at once, on a core each
(OMP_NUM_THREADS=1), are faster than one on two cores.
"""

from pathlib import Path

from study import Arm, parser, train_all

from cifarlab.recipes import names, read

PARTS = Path(__file__).with_name("ladder_parts.py")
SCALE = (f"imports=[{PARTS}]", "data.limit=20000", "data.batch_size=100")
WIDTH = 8


def rungs() -> list[Arm]:
    """The recipes of the ladder with ResNet-18 made small, and twice as wide where a rung widens."""
    arms = []
    for name in names():
        if not name.startswith("ladder/"):
            continue
        backbone = read(name).plain["model"]["backbone"]
        if backbone["name"] == "resnet18":
            small = {"stem": backbone.get("stem", "imagenet"), "width": WIDTH}
        else:
            small = {"stem": "cifar", "width": 2 * WIDTH}
        override = f"model.backbone={{name: small_resnet, stem: {small['stem']}, width: {small['width']}}}"
        arms.append(Arm(name.removeprefix("ladder/"), name, (*SCALE, override)))
    return arms


def main() -> None:
    options = parser(__doc__, "runs/ladder", 10)
    arguments = options.parse_args()
    train_all(rungs(), arguments)


if __name__ == "__main__":
    main()
