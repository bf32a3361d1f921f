"""Records that are written as JSON and read back: typed, frozen, checked where they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cifarlab.core.errors import ConfigError
from cifarlab.core.files import read_json


class Record(BaseModel):
    """A set of named values that leaves the process as a JSON object.

    A number is never read from a string, nor a truth value from a number. Keys that a class does not know
    are kept: a file that another version wrote loses nothing when it is written again.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file.

        Raises:
            ConfigError: It cannot be read, is no JSON object, or a value is missing or of another type.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise ConfigError(f"{path}: cannot be read: {where}: {first['msg'].lower()}") from None

    def to_json(self) -> dict[str, Any]:
        """Return what was given, without the defaults of what was not."""
        return self.model_dump(exclude_unset=True, by_alias=True)

    def changed(self, **values: Any) -> Self:
        """Return a copy with other values.

        Raises:
            pydantic.ValidationError: A value is of another type.
        """
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **values})
