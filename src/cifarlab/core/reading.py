"""Reader of YAML files that users write. It reads JSON, too, which is a subset of YAML."""

from __future__ import annotations

from typing import Any, cast

import yaml

from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain

_MERGE = "tag:yaml.org,2002:merge"


class _Twice(yaml.MarkedYAMLError):
    """Error: a mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """A YAML loader that raises if a mapping has a key twice. PyYAML's own would keep the last value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not in `construct_mapping`: there, `<<` has already merged the keys of other mappings.
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode):
                continue  # `yaml.load` refuses keys that are lists or mappings later.
            # The stubs of PyYAML give `construct_object` no types.
            key = name.value if name.tag == _MERGE else cast("Any", self).construct_object(name)
            alike = {key, str(key)}  # 1 and "1" are the same label.
            for first in (lines[same] for same in alike if same in lines):
                before = f", first on line {first}" if first != name.start_mark.line + 1 else ""
                raise _Twice(problem=f"{key} is given twice{before}", problem_mark=name.start_mark)
            lines |= dict.fromkeys(alike, name.start_mark.line + 1)
        return node


def parse_yaml(text: str, source: str, path: tuple[str, ...] = ()) -> Plain:
    """Parse YAML as plain data.

    Args:
        text: The YAML.
        source: Name of the source in messages: a file's path, or `repr(text)`.
        path: Keys of the option whose value is parsed, for messages. Empty for a file.

    Raises:
        ConfigError: The text is not YAML, or a key occurs twice. The message has the source and, for a file,
            the line.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark and source != repr(text) else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        kind = "" if isinstance(error, _Twice) else "not YAML: "
        raise ConfigError(f"{source}{where}: {kind}{problem}", path) from None
