"""The members of ensembles and soups, loaded and checked against each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifarlab.core.errors import ConfigError
from cifarlab.core.files import file_digest
from cifarlab.data.splits import Splits
from cifarlab.evaluation.sealed import read_splits
from cifarlab.runs.model import best_of, load_trained
from cifarlab.teachers import has_same_pictures, knows_validation
from cifarlab.teachers.teacher import Member
from cifarlab.training.progress import OPTIMISTIC


def load_members(
    runs: Sequence[Path | str], device: str, root: str | None, *, imports: Sequence[Path | str] = ()
) -> tuple[list[Member], Splits]:
    """Load the models of runs, and the splits of their data set.

    The models are those of the epochs that `train.select` chose. Each keeps its own image size, normalisation
    and precision.

    Args:
        runs: The runs, their folders, or their checkpoints.
        device: auto, cpu, cuda or cuda:1.
        root: Folder of the data set. Default: the folder that each run read it from.
        imports: Python files or modules that register the runs' custom parts.

    Returns:
        The models in the order of `runs`, and the splits of the first run.

    Raises:
        ConfigError: There are fewer than two runs, or one is given twice. Or a run was trained on another
            data set than the first run, on pictures stored at another size, or on validation pictures of the
            first run.
    """
    _refuse_few_or_twice(runs)
    members = []
    for run in runs:
        trained = load_trained(run, device=device, imports=imports).with_data_root(root)
        digest, size = file_digest(best_of(run)), trained.saved.image_size
        members.append(Member(trained, str(run), digest, size, trained.precision))
    first = members[0]
    splits = read_splits(first.path, first.trained)
    for member in members[1:]:
        if not has_same_pictures(member, first.trained.saved, splits):
            raise ConfigError(
                f"{member.path} was trained on another data set than {first.path} (fingerprints differ)"
            )
        size, first_size = member.trained.store_size, first.trained.store_size
        if size != first_size:
            raise ConfigError(
                f"{member.path} keeps pictures at {size} px, {first.path} at {first_size} px, and all "
                "runs are shown the same pictures; train the runs with one data.store_size"
            )
        if knows_validation(member, first.trained.saved, splits):
            raise ConfigError(
                f"{member.path} was trained on validation pictures of {first.path} (data.split_seed, "
                "data.val, data.classes or the size of stored pictures differ), so nothing can be chosen on "
                "them; train the runs with the same data.split_seed"
            )
    return members, splits


def _refuse_few_or_twice(runs: Sequence[Path | str]) -> None:
    if len(runs) < 2:
        raise ConfigError(f"a mean of runs needs two runs or more, got {len(runs)}")
    files = [best_of(run).resolve() for run in runs]
    for run, file in zip(runs, files, strict=True):
        if files.count(file) > 1:
            raise ConfigError(f"{run} is given twice; name each run once")


def optimism_warnings(members: Sequence[Member]) -> list[str]:
    """Return warnings for members whose epoch was chosen on the test pictures."""
    chosen_on_test = [member for member in members if member.trained.saved.select == "test"]
    return [f"{member.path} was {OPTIMISTIC}" for member in chosen_on_test]
