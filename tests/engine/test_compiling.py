"""The compiled engine trains as the eager one does, and compiles once for each shape."""

import subprocess
import sys

import pytest
import torch

from cifarlab.core.errors import ConfigError
from cifarlab.engine.step import Engine
from cifarlab.training.setup import prepare
from tests.tiny import TINY, once, tiny_config

# 108 validate, 192 train in six whole batches: each shape takes seconds to compile.
EXACT = ("data.val=108", "train.precision=float32", "train.epochs=20", "train.grad_clip=null")


def train_steps(engine: Engine, steps: range) -> None:
    engine.model.train()
    for step in steps:
        epoch = step // engine.plan.steps_per_epoch
        engine.step(engine.order(epoch), epoch, step)


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    """Eager and compiled, of the same recipe: dropout, batch norm, a policy, sizes in turn."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    policy = ("data.augment={flip: {p: 0.5}}", "data.multi_scale={sizes: [24, 32]}")
    eager, compiled = (
        prepare(tiny_config(*EXACT, *policy, f"train.engine={name}")).engine for name in ("eager", "compiled")
    )
    return eager, compiled


def test_the_first_step_is_the_same(engines):
    for engine in engines:
        train_steps(engine, range(1))
    eager, compiled = engines
    assert compiled.means.read()["loss/total"] == pytest.approx(eager.means.read()["loss/total"], rel=1e-5)
    for (name, ours), theirs in zip(eager.model.named_parameters(), compiled.model.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() <= 1e-5 * ours.grad.norm(), name


def test_a_hundred_steps_lose_the_same_and_each_shape_is_compiled_once(engines):
    """Shapes: pictures at two sizes."""
    eager, compiled = engines
    for engine in engines:
        train_steps(engine, range(1, 100))
    assert compiled.means.read()["loss/total"] == pytest.approx(eager.means.read()["loss/total"], rel=5e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_checkpoint_of_one_is_the_others(engines):
    eager, compiled = engines
    eager.load_state_dict(compiled.state_dict())
    for engine in engines:
        engine.means.reset()
        train_steps(engine, range(100, 101))
    assert compiled.means.read()["loss/total"] == pytest.approx(eager.means.read()["loss/total"], rel=1e-5)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none_found():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none_found)
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler on a CPU; install g\\+\\+"):
        prepare(tiny_config("train.engine=compiled"))


def test_the_command_line_says_nothing_beside_its_lines(tmp_path):
    """Compilers give warnings that do not help a user."""
    words = [*once(*TINY, "train.engine=compiled", "train.epochs=1"), "--runs", str(tmp_path)]
    found = subprocess.run(
        [sys.executable, "-m", "cifarlab", "train", "demo", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not found.stderr
    assert "epoch 1/1" in found.stdout
