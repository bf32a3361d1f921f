"""The libraries that draw charts. They are installed by the extra `report`."""

from cifarlab.core.errors import ConfigError

try:
    import altair
    import vl_convert
except ImportError as error:
    raise ConfigError(
        f"{error}: charts are drawn with altair and vl-convert-python; run: pip install 'cifarlab[report]'"
    ) from None

__all__ = ["altair", "vl_convert"]
