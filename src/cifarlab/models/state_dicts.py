"""The state dict in the content of a file: found in any usual wrapping, with the names that the model has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from cifarlab.core.errors import ConfigError
from cifarlab.models.stand_ins import SAVE_WEIGHTS, StoredArray, is_module, printable, stands_for

# Keys of state dicts, and first parts of all names in one, that wrappers of models are known to use.
_KEYS = {
    "engine", "model", "state_dict", "model_state_dict", "net", "network", "weights", "params", "module",
}  # fmt: skip
_PREFIXES = {"module", "_orig_mod", "model", "net", "network"}
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|averaged?)([._]|$)")
_DEEPEST = 3
# The share of the module's names that a prefix must explain if some names in the file lack it.
_MOST = 0.9


@dataclass(frozen=True)
class FoundState:
    """A state dict that was found in a file.

    Attributes:
        state: Its tensors. Floats of fewer than 32 bits are converted to float32.
        notes: Where it was found and what was changed, for the report.
    """

    state: dict[str, Tensor]
    notes: list[str]


@dataclass(frozen=True)
class _Candidate:
    """A mapping in the file that may be the state dict.

    Attributes:
        place: Keys that lead to it.
        tensors: Its tensors.
        dropped: Names of other values in it.
        merged: Number of models whose average it is, if it is a state dict of `AveragedModel`.
    """

    place: tuple[str, ...]
    tensors: dict[str, Tensor]
    dropped: list[str]
    merged: int | None

    def __str__(self) -> str:
        return ".".join(map(printable, self.place))

    @property
    def is_average(self) -> bool:
        return self.merged is not None or any(map(_AVERAGE.search, self.place))


def find_state(content: object, *, names: Collection[str] = ()) -> FoundState:
    """Find the state dict in the content of a file.

    Of several, the one that fits `names` best is taken; of equally good ones, the average of the weights. A
    prefix of all names is removed if the rest fits `names` better. Where nothing fits, such as names that are
    translated later, only prefixes of usual wrappers are removed.

    Args:
        content: Content of the file, see `WeightFile`.
        names: Names of the module's tensors, if known.

    Raises:
        ConfigError: There is no state dict, or it is unclear which one is meant, or it holds tensors that
            cannot be loaded. The message lacks the file's name.
    """
    own = frozenset(names)
    found = [*_candidates(content)]
    if not found:
        raise ConfigError(f"{_why_none(content)}; {SAVE_WEIGHTS}")
    chosen = _choose(found, own)
    prefix = _prefix(chosen.tensors, own)
    state: dict[str, Tensor] = {}
    stored: set[str] = set()
    for name, value in chosen.tensors.items():
        if not name.isprintable() or len(name) > 200:
            raise ConfigError(
                f"holds a tensor named {printable(name)}, which no model has; name another file"
            )
        if kind := _unusable(value):
            raise ConfigError(f"holds {name} as a tensor {kind}; {SAVE_WEIGHTS}")
        if value.is_floating_point() and value.element_size() < 4:
            stored.add(str(value.dtype).removeprefix("torch."))
            value = value.float()
        if (own_name := name.removeprefix(prefix)) in state:
            raise ConfigError(f"holds both {own_name} and {prefix}{own_name}; {SAVE_WEIGHTS}")
        state[own_name] = value
    merged = f" of {chosen.merged} models" if chosen.merged else ""
    average = f"an average{merged}" if chosen.is_average else ""
    source = ", ".join(filter(None, (f"from {chosen}" if chosen.place else "", average)))
    others = ", ".join(str(each) for each in found if each is not chosen)
    notes = [
        f"{source} (not used: {others})" if others else source,
        f"prefix {prefix} removed" if prefix else "",
        f"converted from {', '.join(sorted(stored))} to float32" if stored else "",
        f"without {', '.join(map(printable, chosen.dropped[:3]))}: no tensor" if chosen.dropped else "",
    ]
    return FoundState(state, [note for note in notes if note])


def _candidates(content: object, place: tuple[str, ...] = ()) -> Iterator[_Candidate]:
    """Yield the state dicts inside `content`; those of optimizers are left out."""
    if not isinstance(content, Mapping) or "param_groups" in content or len(place) > _DEEPEST:
        return
    inner = [each for key, value in content.items() for each in _candidates(value, (*place, str(key)))]
    if inner:
        yield from inner
        return
    tensors = {key: found for key, value in content.items() if (found := _tensor(value)) is not None}
    if not all(isinstance(name, str) for name in tensors):
        return
    counter, merged = tensors.get("n_averaged"), None
    if (
        counter is not None
        and counter.dtype == torch.int64
        and counter.numel() == 1
        and not _unusable(counter)
    ):
        merged = int(tensors.pop("n_averaged"))
    dropped = [str(key) for key in content if key not in tensors and (key != "n_averaged" or merged is None)]
    # Generators' states are tensors of bytes; results are single numbers.
    may_be_weights = any(value.ndim and value.dtype != torch.uint8 for value in tensors.values())
    if may_be_weights and len(tensors) > len(dropped):
        yield _Candidate(place, tensors, dropped, merged)


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, StoredArray):
        return value.tensor()
    return value.detach() if isinstance(value, Tensor) else None


def _count(counter: Tensor | None) -> int | None:
    """Return how many models an `AveragedModel` has merged; None if `counter` does not say it."""
    if counter is None or counter.dtype != torch.int64 or counter.numel() != 1 or counter.is_meta:
        return None
    return int(counter)


def _unusable(value: Tensor) -> str | None:
    if value.is_quantized:
        return "that is quantized"
    if value.is_meta:
        return "without values (on the device meta)"
    return None if value.layout is torch.strided else "that is sparse"


def _choose(found: list[_Candidate], own: frozenset[str]) -> _Candidate:
    """Return the candidate to take: the best fit, then an average, then one under a usual key."""
    # torch's AveragedModel begins with a copy of the first weights.
    likely = [each for each in found if each.merged != 0] or found
    fits = [_fit(each.tensors, own, _prefix(each.tensors, own)) for each in likely]
    likely = [each for each, fit in zip(likely, fits, strict=True) if fit == max(fits)]
    bare = [{name.removeprefix(_common(each.tensors)) for name in each.tensors} for each in likely]
    averages = [
        each for each, names in zip(likely, bare, strict=True) if each.is_average and bare.count(names) > 1
    ]
    usual = [each for each in likely if not each.place or each.place[-1] in _KEYS]
    group = averages or usual or likely
    if len(group) == 1:
        return group[0]
    example = "".join(f"[{key!r}]" for key in group[-1].place)
    raise ConfigError(
        f"holds several state dicts ({', '.join(map(str, group[:5]))}), and it is unclear which is meant; "
        f"save one of them alone, e.g. torch.save(content{example}, 'weights.pt')"
    )


def _fit(names: Iterable[str], own: frozenset[str], prefix: str) -> int:
    """Count the names of the module among `names` without a prefix.

    Of a `Classifier`'s state dict those of the backbone count, if they are more.
    """
    bare = {name.removeprefix(prefix) for name in names}
    inner = {name.removeprefix("backbone.") for name in bare if name.startswith("backbone.")}
    return max(len(bare & own), len(inner & own))


def _common(names: Collection[str]) -> str:
    """Return the longest prefix of all names that ends with a dot."""
    first, last = min(names), max(names)  # in alphabetical order: what these share, all share
    pairs = zip(first.split(".")[:-1], last.split(".")[:-1], strict=False)
    return "".join(f"{part}." for part, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _prefix(names: Collection[str], own: frozenset[str]) -> str:
    """Return the prefix to remove, or an empty string."""
    parts = _common(names).split(".")[:-1]
    prefixes = [".".join([*parts[:count], ""]) for count in range(len(parts) + 1)]
    best = max(prefixes, key=lambda prefix: _fit(names, own, prefix))  # the shortest of equally good ones
    if _fit(names, own, best) < _MOST * len(own):
        # A few names may lack the prefix, such as those of a loss beside the model.
        dots = ((name, dot.end()) for name in names for dot in re.finditer(r"\.", name))
        counts = Counter(name[:end] for name, end in dots if name[end:] in own)
        best = next((prefix for prefix, count in counts.items() if count >= _MOST * len(own)), best)
    if _fit(names, own, best):
        return best
    usual = takewhile(_PREFIXES.__contains__, parts)
    return "".join(f"{part}." for part in usual)


def _why_none(content: object, depth: int = 0) -> str:
    """Say what a file holds instead of a state dict."""
    if is_module(content):
        return f"{'holds' if depth else 'is'} a whole model ({stands_for(content)}), not its weights"
    if name := stands_for(content):
        return f"holds an object ({name}), not a state dict"
    if not isinstance(content, Mapping):
        kind = "one tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
        return f"holds {kind}, not a state dict"
    if "param_groups" in content:
        return "holds an optimizer's state and no weights of a model"
    inner = [_why_none(value, depth + 1) for value in content.values()] if depth < _DEEPEST else []
    telling = [why for why in inner if "whole model" in why] + [why for why in inner if "optimizer" in why]
    return telling[0] if telling else "holds no tensors of a state dict"
