"""Reader of YAML files that users write. It reads JSON, too, which is a subset of YAML."""

from __future__ import annotations

import re
from typing import Any, cast

import yaml

from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain

_MERGE, _INT, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("merge", "int", "float"))
_OCTAL = re.compile(r"[-+]?0[0-7_]+")


class _Refused(yaml.MarkedYAMLError):
    """Error: correct YAML that is probably a mistake."""


class _Loader(yaml.SafeLoader):
    """A YAML loader that refuses keys given twice, and numbers that YAML reads in base 8 or 60.

    PyYAML's own would keep the last value of a key, and read 010 as 8, 1:30 as 90.
    """

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
                raise _Refused(problem=f"{key} is given twice{before}", problem_mark=name.start_mark)
            lines |= dict.fromkeys(alike, name.start_mark.line + 1)
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return the number that a scalar stands for. Raises _Refused for base 8 or 60."""
        text, construct = node.value, cast("Any", super())
        is_int = node.tag == _INT
        value = construct.construct_yaml_int(node) if is_int else construct.construct_yaml_float(node)
        if ":" in text:
            problem = (
                f"{text} is {value} in YAML, which counts in sixties; write {value}, or '{text}' for text"
            )
        elif is_int and _OCTAL.fullmatch(text):
            problem = f"{text} is {value} in YAML, which reads it in base 8; write {value} or {int(text)}"
        else:
            return value
        raise _Refused(problem=problem, problem_mark=node.start_mark)


for _tag in (_INT, _FLOAT):
    _Loader.add_constructor(_tag, _Loader.construct_number)


def parse_yaml(text: str, source: str, path: tuple[str, ...] = ()) -> Plain:
    """Parse YAML as plain data.

    Args:
        text: The YAML.
        source: Name of the source in messages: a file's path, or `repr(text)`.
        path: Keys of the option whose value is parsed, for messages. Empty for a file.

    Raises:
        ConfigError: The text is not YAML, a key occurs twice, or a number is written in base 8 or 60. The
            message has the source and, for a file, the line.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark and source != repr(text) else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        kind = "" if isinstance(error, _Refused) else "not YAML: "
        raise ConfigError(f"{source}{where}: {kind}{problem}", path) from None
