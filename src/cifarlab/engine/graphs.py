"""Work captured once as CUDA graphs and replayed: one launch in place of hundreds."""

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
from cifarlab.core.errors import ConfigError

# Where a recipe says how its steps run.
ENGINE = ("train", "engine")
# Pieces of work of the first kind that run as they are written, before it is captured: libraries get ready in
# them, optimizers make their moments. Of a later kind one does: libraries choose their algorithms in it.
WARM_UP = 3

# Seeds torch's generators; called before each forward pass, and by nothing else in a piece of work.
Reseed = Callable[[int], object]
# A training step, or a batch that is scored: its numbers on the host are fixed, and what changes from one to
# the next of its kind is in tensors.
Work = Callable[[Reseed], None]
# What work is given: tensors, records and tuples of them.
G = TypeVar("G")


class Tape(Protocol):
    """What records a piece of work; tests have one that needs no GPU."""

    def aside(self) -> AbstractContextManager[object]:
        """Where the work is done that comes before the recorded one."""
        ...

    def record(self, work: Work) -> Callable[[Sequence[int]], None]:
        """A function of its seeds that does what `work` does; the recording itself does nothing."""
        ...


class CudaTape:
    """Records on a stream of its own; what it records shares one pool of memory, since nothing overlaps."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            yield
        current.wait_stream(self.stream)

    def record(self, work: Work) -> Callable[[Sequence[int]], None]:
        """One graph from each seed to the next: the generator can be seeded between graphs, not within one.

        Raises ConfigError where the work does what cannot be captured: it waits for the device, for example.
        """
        graphs: list[torch.cuda.CUDAGraph] = []
        with ExitStack() as open_graph:

            def cut(seed: int) -> None:
                open_graph.close()
                graph = torch.cuda.CUDAGraph()
                graphs.append(graph)
                # The thread that writes checkpoints may use the device meanwhile.
                captured = torch.cuda.graph(graph, self.pool, self.stream, capture_error_mode="thread_local")
                open_graph.enter_context(captured)

            try:
                work(cut)
                open_graph.close()
            except Exception as error:
                # The capture that failed has more to say of it, none of which helps.
                with contextlib.suppress(RuntimeError):
                    open_graph.close()
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = str(error).strip().partition("\n")[0][:150]
                raise ConfigError(
                    f"what this recipe does cannot be captured ({reason}); say train.engine=eager",
                    ENGINE,
                ) from error

        def replay(seeds: Sequence[int]) -> None:
            for graph, seed in zip(graphs, seeds, strict=True):
                # A replay reads the generator's seed: dropout draws what it would draw uncaptured.
                torch.manual_seed(seed)
                graph.replay()

        return replay


class Graphs:
    """Captured work by its kind: how many pictures, at which sizes, of which model."""

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
        """Do `work(given, reseed)`, in which reseed is called with each of `seeds`, in order.

        kind: what a piece of work has in common with those that it can be replayed as. Returns what was
        worked on: `given`, or the copies that captured work looks at, which its next replay writes over.
        """
        if kind in self._recorded:
            places, replay = self._recorded[kind]
            for place, each in zip(places, given, strict=True):
                copy_into(place, each)
            replay(seeds)
            return places
        with self.tape.aside():
            work(given, torch.manual_seed)
        self._seen[kind] += 1
        # At once: what comes once an epoch is captured in the first one, too.
        if self._recorded or self._seen[kind] >= WARM_UP:
            places = [copied(each) for each in given]
            self._recorded[kind] = places, self.tape.record(lambda reseed: work(places, reseed))
        return given


def copied(given: Any) -> Any:
    """The same with copies of all tensors: where captured work looks for them."""
    if isinstance(given, Batch | Output):
        return replace(given, **{field.name: copied(getattr(given, field.name)) for field in fields(given)})
    if isinstance(given, tuple):
        return tuple(map(copied, given))
    return given.clone() if isinstance(given, Tensor) else given


def copy_into(place: Any, given: Any, name: str = "what was given") -> None:
    """Bring tensors to where captured work looks for them. What is no tensor must be equal.

    name: of what is compared, for the message.
    """
    if isinstance(place, Batch | Output):
        for field in fields(place):
            copy_into(getattr(place, field.name), getattr(given, field.name), field.name)
    elif isinstance(place, tuple):
        for one, other in zip(place, given, strict=True):
            copy_into(one, other, name)
    elif isinstance(place, Tensor):
        place.copy_(given, non_blocking=True)
    else:
        assert place == given, f"{name} changes from one time to the next, but is no tensor"


def refuse_graphs(config: Config, precision: Precision) -> None:
    """Raise ConfigError where steps cannot be captured: a CPU, a loss scale, lookahead."""
    kind = precision.device.type
    if kind != "cuda":
        raise ConfigError(
            f"graph captures the steps of a GPU, and this run is on the {kind}; leave train.engine=auto",
            ENGINE,
        )
    if precision.scaled:
        raise ConfigError("graph needs bfloat16 or float32: a loss scale is adjusted on the host", ENGINE)
    if config.optim.lookahead is not None:
        raise ConfigError("optim.lookahead counts its steps on the host; say train.engine=eager", ENGINE)
