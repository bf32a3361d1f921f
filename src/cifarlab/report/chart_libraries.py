"""The libraries that draw the charts of `report` and `analyze`: an extra of the package."""

from cifarlab.core.errors import ConfigError

try:
    import altair
    import vl_convert
except ImportError as error:
    raise ConfigError(
        f"{error}: charts are drawn with altair and vl-convert-python; run: pip install 'cifarlab[report]'"
    ) from None

__all__ = ["altair", "vl_convert"]
