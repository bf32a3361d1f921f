"""Records that are stored as JSON: typed, frozen, validated when read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cifarlab.core.errors import ConfigError, unknown
from cifarlab.core.files import read_json


class Record(BaseModel):
    """Base class of records that are stored as JSON objects.

    Validation is strict: it does not convert a string to a number, or a number to a boolean. Unknown keys are
    kept, so a file from another version loses nothing when it is rewritten.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", populate_by_name=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record from a JSON file.

        Raises:
            ConfigError: The file is missing, unreadable or no JSON object, or a value is missing or wrong.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ConfigError(f"{path}: cannot be read: {where}: {first['msg'].lower()}") from None

    def to_json(self) -> dict[str, Any]:
        """Return the values that were given or read, as a dict. Fields left at their defaults are omitted."""
        return self.model_dump(exclude_unset=True, by_alias=True)

    def changed(self, **values: Any) -> Self:
        """Return a validated copy with some fields replaced.

        Raises:
            TypeError: The record has no field of such a name.
            pydantic.ValidationError: A value has a wrong type.
        """
        known = type(self).model_fields
        for name in values:
            if name not in known:
                raise TypeError(f"{type(self).__name__} has no value {name!r}: {unknown(name, known)}")
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **values})
