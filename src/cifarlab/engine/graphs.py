"""CUDA graphs: GPU work is captured once, then replayed with few launches in place of hundreds.

"Work" means a function that runs a training step or scores a batch.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cifarlab.config import Config
from cifarlab.core.batch import Batch, Output
from cifarlab.core.device import Precision
from cifarlab.core.errors import ConfigError, reason_of

# The key path of the option that selects graphs.
ENGINE = ("train", "engine")
# How often work of the first kind runs uncaptured before its capture. In these runs libraries initialise and
# optimizers create their moments. Work of a later kind runs uncaptured once, in which libraries choose their
# algorithms.
WARM_UP = 3

# Seeds torch's generators. Work calls it before each forward pass and nowhere else.
Reseed = Callable[[int], object]
# A training step, or the scoring of a batch. Its numbers on the host are fixed; what changes between works of
# one kind is in tensors.
Work = Callable[[Reseed], None]
# The input of work: tensors, records and tuples of them.
G = TypeVar("G")


class Tape(Protocol):
    """Interface for recording work: by CUDA graphs, or by a substitute in tests without a GPU."""

    def warm_up(self) -> AbstractContextManager[object]:
        """Return a context in which to run work before it is recorded."""
        ...

    def record(self, work: Work) -> Callable[[Sequence[int]], None]:
        """Record work without running it; return a function that replays it.

        That function takes the random seeds of the work's forward passes.
        """
        ...


class CudaTape:
    """Records work as CUDA graphs, on a stream of its own.

    All graphs share one memory pool, since they never run at the same time.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def warm_up(self) -> Iterator[None]:
        """Let the context's GPU work run on the stream used for recording."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, work: Work) -> Callable[[Sequence[int]], None]:
        """Record work as several graphs, one for each forward pass.

        A new graph begins wherever `work` seeds the generator, because a graph cannot contain seeding.

        Raises:
            ConfigError: The work cannot be captured, for example because it waits for the device.
        """
        graphs: list[torch.cuda.CUDAGraph] = []
        with ExitStack() as open_graph:

            def cut(_seed: int) -> None:
                open_graph.close()
                graph = torch.cuda.CUDAGraph()
                graphs.append(graph)
                # "thread_local", because the thread that writes checkpoints may use the device meanwhile.
                captured = torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local")
                open_graph.enter_context(captured)

            try:
                work(cut)
                open_graph.close()
            except Exception as error:
                # Closing a failed capture raises further errors, which do not help the user.
                with contextlib.suppress(RuntimeError):
                    open_graph.close()
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                message = f"the steps of this recipe cannot be captured ({reason_of(error)})"
                raise ConfigError(f"{message}; set train.engine=eager", ENGINE) from error

        def replay(seeds: Sequence[int]) -> None:
            for graph, seed in zip(graphs, seeds, strict=True):
                # A replay reads the generator's seed, so dropout draws the same numbers as without capture.
                torch.manual_seed(seed)
                graph.replay()

        return replay


class Graphs:
    """Captures work, such as a training step, and replays it in later calls of the same kind.

    A kind is a key, such as a tuple of the model, the number of pictures and their sizes. Calls with equal
    keys can replay the same graphs. `tape` records the work.
    """

    def __init__(self, tape: Tape):
        self.tape = tape
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, tuple[Any, Callable[[Sequence[int]], None]]] = {}

    def run(
        self,
        kind: Hashable,
        given: Sequence[G],
        seeds: Sequence[int],
        work: Callable[[Sequence[G], Reseed], None],
    ) -> Sequence[G]:
        """Call `work(given, reseed)`, or replay its captured graphs.

        The first calls of a kind run `work` itself. Then it is captured, and later calls replay it.

        Args:
            kind: The key of the work. Calls with equal keys can replay the same graphs.
            given: The inputs of `work`, which may change them in place.
            seeds: The seeds of the forward passes. `work` calls `reseed` with each of them, in order.
            work: The function to call or to replay.

        Returns:
            The inputs with the changes that `work` made. They are `given` itself or, after a replay, the
            graphs' own copies. The next replay of the kind overwrites these copies.
        """
        if kind in self._recorded:
            places, replay = self._recorded[kind]
            for place, each in zip(places, given, strict=True):
                copy_into(place, each)
            replay(seeds)
            return places
        with self.tape.warm_up():
            work(given, torch.manual_seed)
        self._seen[kind] += 1
        # A later kind is captured at once, so that work that comes once an epoch is captured in the first
        # epoch.
        if self._recorded or self._seen[kind] >= WARM_UP:
            places = [copied(each) for each in given]
            self._recorded[kind] = places, self.tape.record(lambda reseed: work(places, reseed))
        return given


def copied(given: Any) -> Any:
    """Copy an input with all its tensors; captured graphs read the copy."""
    if isinstance(given, Batch | Output):
        return replace(given, **{field.name: copied(getattr(given, field.name)) for field in fields(given)})
    if isinstance(given, tuple):
        return tuple(map(copied, given))
    return given.clone() if isinstance(given, Tensor) else given


def copy_into(place: Any, given: Any, *, name: str = "input") -> None:
    """Copy the tensors of `given` into `place`, the input of captured graphs.

    Other values must be equal in both. `name` is the value's name in the error message.
    """
    if isinstance(place, Batch | Output):
        for field in fields(place):
            copy_into(getattr(place, field.name), getattr(given, field.name), name=field.name)
    elif isinstance(place, tuple):
        for one, other in zip(place, given, strict=True):
            copy_into(one, other, name=name)
    elif isinstance(place, Tensor):
        place.copy_(given, non_blocking=True)
    else:
        assert place == given, f"{name} is not a tensor, but differs between calls: it cannot be replayed"


def refuse_graphs(config: Config, precision: Precision) -> None:
    """Raise ConfigError if a run's steps cannot be captured.

    They cannot on a CPU, with a loss scale (float16), or with lookahead.
    """
    kind = precision.device.type
    if kind != "cuda":
        raise ConfigError(
            f"graph captures the steps of a GPU, and this run is on the {kind}; leave train.engine=auto",
            ENGINE,
        )
    if precision.scaled:
        raise ConfigError("graph needs bfloat16 or float32: a loss scale is adjusted on the host", ENGINE)
    if config.optim.lookahead is not None:
        raise ConfigError("optim.lookahead counts its steps on the host; set train.engine=eager", ENGINE)
