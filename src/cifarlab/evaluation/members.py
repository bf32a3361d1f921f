"""Runs that are asked together: loaded, and refused where one knows another's validation pictures."""

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
    """The chosen models of runs, each with its own size and arithmetic, and their common pictures.

    Sizes, normalisations and precisions may differ. root: where the data set lies, if not where each run
    found it. imports: as of `load`. Raises ConfigError where the data sets differ, and where what validates
    one was trained on by another.
    """
    members = []
    for run in runs:
        trained = load_trained(run, device=device, imports=imports).at(root)
        digest, size = file_digest(best_of(run)), trained.saved.image_size
        members.append(Member(trained, str(run), digest, size, trained.precision))
    first = members[0]
    splits = read_splits(first.path, first.trained)
    for member in members[1:]:
        if not has_same_pictures(member, first.trained.saved, splits):
            raise ConfigError(
                f"{member.path} was trained on another data set than {first.path} (another fingerprint)"
            )
        if knows_validation(member, first.trained.saved, splits):
            raise ConfigError(
                f"{member.path} was trained on pictures that validate {first.path} (data.split_seed, "
                "data.val, data.classes or the size at which pictures are kept differ), so nothing could be "
                "chosen on them; train the runs with one data.split_seed"
            )
    return members, splits


def optimism_warnings(members: Sequence[Member]) -> list[str]:
    """A line for each member whose epoch was chosen on the test pictures."""
    chosen_on_test = [member for member in members if member.trained.saved.select == "test"]
    return [f"{member.path} was {OPTIMISTIC}" for member in chosen_on_test]
