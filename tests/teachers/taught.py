"""Teachers, and students that they teach: what the tests of both share."""

from cifarlab.engine.batches import make_batch, view_epoch
from tests.tiny import tiny_config, train_tiny

MARGIN = (
    "model.head={name: margin, dim: 16, scale: 64}",
    "objective={cross_entropy: null, arcface: {margin: 0.2}}",
)
DISTILL = ("objective={distill: {weight: 0.9}}", "train.precision=float32")


def train_teachers(folder):
    """A folder of runs: a linear teacher at 48 px, one with a margin head, and one that is not finished."""
    better = ("train.epochs=6", "optim.lr=1e-2", "train.precision=float32")
    train_tiny(folder / "linear" / "0", *better, "data.image_size=48", "model.normalize=dataset")
    train_tiny(folder / "margin" / "0", *better, *MARGIN)
    train_tiny(folder / "unfinished" / "0", "train.epochs=1")
    (folder / "unfinished" / "0" / "summary.json").unlink()
    return folder


def student(runs, *overrides, run="linear"):
    """The configuration of a student of one of `runs`."""
    return tiny_config(*DISTILL, f"teacher.run={runs / run / '0'}", *overrides)


def answers(engine, epoch=0, count=64):
    """(batch, what the teacher says of it) for the first pictures of an epoch."""
    engine.begin(epoch)
    positions = engine.order(epoch)[:count]
    config = engine.config
    batch = make_batch(
        engine.train_split, positions, config.data, config.train.seed, view_epoch(config, epoch), 100
    )
    return batch, engine.teacher.answer(batch, positions)
