"""YAML that a user wrote (JSON is YAML, too), read as plain data."""

from __future__ import annotations

from typing import Any

import yaml

from cifarlab.registry import ConfigError

_MERGE = "tag:yaml.org,2002:merge"


class _Twice(yaml.MarkedYAMLError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """YAML's own loader drops the first of two equal keys; this one raises."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not in `construct_mapping`: by then `<<` has put other mappings' keys among a mapping's own.
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue  # A key that is a list or a mapping is refused later.
            key = name.value if name.tag == _MERGE else self.construct_object(name)
            alike = {key, str(key)}  # 1 and "1" are the same label.
            for first in (lines[same] for same in alike if same in lines):
                before = f", first on line {first}" if first != name.start_mark.line + 1 else ""
                raise _Twice(problem=f"{key} is given twice{before}", problem_mark=name.start_mark)
            lines |= dict.fromkeys(alike, name.start_mark.line + 1)
        return node


def parse_yaml(text: str, source: str, path: tuple[str, ...] = ()) -> Any:
    """Read YAML as plain data. Raises ConfigError at `path` with source, line and key.

    source: a file's path, or the text as `repr` shows it.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark and source != repr(text) else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        kind = "" if isinstance(error, _Twice) else "not YAML: "
        raise ConfigError(f"{source}{where}: {kind}{problem}", path) from None
