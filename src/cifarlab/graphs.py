"""Training steps captured once as CUDA graphs and replayed: one launch in place of hundreds."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cifarlab.records import Batch, Output
from cifarlab.registry import ConfigError

# Where a recipe says how its steps run.
ENGINE = ("train", "engine")
# Steps of a kind that run as they are written, before one is captured: libraries choose their algorithms and
# optimizers make their moments in the first ones.
WARM_UP = 3

# Seeds torch's generators; called before each forward pass of a step, and by nothing else in it.
Reseed = Callable[[int], object]
# A step, whose numbers on the host are fixed: what changes from one to the next of its kind is in tensors.
Work = Callable[[Reseed], None]
R = TypeVar("R", bound=Batch | Output)


class Tape(Protocol):
    """What records a step; tests have one that needs no GPU."""

    def aside(self) -> AbstractContextManager[object]:
        """Where the steps run that come before the recorded one."""
        ...

    def record(self, work: Work) -> Callable[[Sequence[int]], None]:
        """A function of the step's seeds that does what `work` does; the recording itself does nothing."""
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

        Raises ConfigError where the step does what cannot be captured: it waits for the device, for example.
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
                reason = str(error).strip().partition("\n")[0][:150]
                raise ConfigError(
                    f"a step of this recipe cannot be captured ({reason}); say train.engine=eager",
                    ENGINE,
                ) from error

        def replay(seeds: Sequence[int]) -> None:
            for graph, seed in zip(graphs, seeds, strict=True):
                # A replay reads the generator's seed: dropout draws what it would draw uncaptured.
                torch.manual_seed(seed)
                graph.replay()

        return replay


class Graphs:
    """Captured steps by their kind: how many pictures, at which sizes."""

    def __init__(self, tape: Tape):
        self.tape = tape
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, tuple[list[Batch], Callable[[Sequence[int]], None]]] = {}

    def run(
        self,
        kind: Hashable,
        batches: Sequence[Batch],
        seeds: Sequence[int],
        work: Callable[[Sequence[Batch], Reseed], None],
    ) -> None:
        """Do a step: `work(batches, reseed)`, in which reseed is called with each of `seeds`, in order.

        kind: what a step has in common with those that it can be replayed as.
        """
        if kind not in self._recorded:
            if self._seen[kind] < WARM_UP:
                self._seen[kind] += 1
                with self.tape.aside():
                    work(batches, torch.manual_seed)
                return
            places = [copied(batch) for batch in batches]
            self._recorded[kind] = places, self.tape.record(lambda reseed: work(places, reseed))
        places, replay = self._recorded[kind]
        for place, batch in zip(places, batches, strict=True):
            copy_into(place, batch)
        replay(seeds)


def copied(record: R) -> R:
    """A record whose tensors are copies: where a captured step looks for them."""
    return replace(record, **{field.name: _copied(getattr(record, field.name)) for field in fields(record)})


def _copied(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    if isinstance(value, Batch | Output):
        return copied(value)
    return value.clone() if isinstance(value, Tensor) else value


def copy_into(place: Batch | Output, record: Batch | Output) -> None:
    """Bring a record's tensors to where a captured step looks for them. What is no tensor must be equal."""
    for field in fields(place):
        _copy_into(getattr(place, field.name), getattr(record, field.name), field.name)


def _copy_into(place: Any, value: Any, name: str) -> None:
    if isinstance(place, tuple):
        for one, other in zip(place, value, strict=True):
            _copy_into(one, other, name)
    elif isinstance(place, Batch | Output):
        copy_into(place, value)
    elif isinstance(place, Tensor):
        place.copy_(value, non_blocking=True)
    else:
        assert place == value, f"{name} changes from step to step, but is no tensor"
