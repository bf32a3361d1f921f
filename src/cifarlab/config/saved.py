"""Configurations that earlier versions saved, in the words of this one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def translate_saved(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the options of a saved configuration that have other names now.

    `teacher.views` is `data.views` now; null, its default, is dropped. What is no section is left as it is:
    whoever checks the configuration explains it.
    """
    translated = copy.deepcopy(dict(plain))
    teacher, data = translated.get("teacher"), translated.get("data")
    if isinstance(teacher, dict) and "views" in teacher and isinstance(data, dict):
        views = teacher.pop("views")
        if views is not None:
            data["views"] = views
    return translated
