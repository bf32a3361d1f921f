"""Where a run comes from: what its configuration changes, on what it ran."""

from __future__ import annotations

from cifarlab.config import NOT_IDENTITY
from cifarlab.merging import differences, shown
from cifarlab.recipes import checked, read
from cifarlab.registry import ConfigError
from cifarlab.report.collect import Finished


def changes(run: Finished) -> list[tuple[str, str, str]]:
    """What a run's configuration changes in the base of its recipe, or in the recipe if that has none."""
    try:
        recipe = read(run.summary["recipe"])
        plain = checked(read(recipe.base, recipe.path.parent).plain if recipe.base else recipe.plain).dump()
    except (ConfigError, KeyError):
        return []  # A recipe of the user's own that has moved.
    found = differences(plain, run.config)
    # Nor which of the seeds it is.
    hidden = {"train.seed", *NOT_IDENTITY}
    return [(key, shown(old), shown(new)) for key, (old, new) in found.items() if key not in hidden]


def surroundings(run: Finished) -> list[tuple[str, str]]:
    """Hardware, versions and date of a run."""
    env = run.env
    hardware, versions = env.get("hardware") or {}, env.get("versions") or {}
    rows = [("recipe", run.summary.get("recipe")), ("date", str(env.get("time") or "")[:10]),
            ("processor", hardware.get("processor")), ("cores", hardware.get("cores")),
            ("device", hardware.get("gpu")), ("precision", env.get("precision"))]  # fmt: skip
    return [(key, str(value)) for key, value in rows if value] + [
        (f"{k}", str(v)) for k, v in versions.items()
    ]
