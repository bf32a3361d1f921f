"""A run that moves to another processor sees the same pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from cifarlab.augment.policies import apply
from cifarlab.config.imports import import_builtin_parts
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS

OPTIONS = {"one_of": {"choices": {"shift_scale_rotate": {}, "color_jitter": {}}}}


def pictures_and_draws() -> dict[str, Tensor]:
    """What every augmentation of the package makes of the same pictures, and some numbers drawn for them."""
    import_builtin_parts()
    images = torch.randint(0, 256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float() / 255
    draws = Draws(3, 5, torch.arange(40))
    found = {"uniform": draws.uniform(), "integers": draws.integers(0, 1000).float()}
    for part in AUGMENTS.parts():
        if part.call.__module__.startswith("cifarlab.") and (
            ... not in part.options.values() or part.name in OPTIONS
        ):
            spec = AUGMENTS.spec({"name": part.name, **OPTIONS.get(part.name, {})})
            found[part.name] = apply(images, draws, {part.name: spec})
    return found


def test_a_processor_without_vector_units_draws_the_same(tmp_path: Path) -> None:
    """torch picks its kernels by what the processor has; the plainest ones differ in their last bits only."""
    path = tmp_path / "pictures.pt"
    program = f"import torch; from {__name__} import *; torch.save(pictures_and_draws(), {str(path)!r})"
    root = Path(__file__).parents[1]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": f"{root / 'src'}:{root}"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    plain, here = torch.load(path, weights_only=True), pictures_and_draws()
    assert plain.keys() == here.keys()
    assert len(here) > 20
    for name in ("uniform", "integers"):
        assert torch.equal(plain[name], here[name])
    for name, pictures in here.items():
        close = (plain[name] - pictures).abs() <= 1 / 255
        assert close.float().mean() >= 0.999, name
