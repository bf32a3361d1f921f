"""What `cifarlab analyze` left in a run's folder, read back and checked: the report opens no data set."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from cifarlab.core.errors import ConfigError
from cifarlab.evaluation.analysis.records import AnalysisFile
from cifarlab.evaluation.analysis.tiles import pictures_path, read_tiles

# By split, the one that the page prefers first.
FILES = {"val": "analysis.json", "test": "analysis_test.json"}


def read_analysis(path: Path, epoch: int) -> AnalysisFile:
    """An analysis of the model of the run's chosen `epoch`.

    Raises ConfigError for a file that is damaged, something else, or of another epoch's model.
    """
    found = AnalysisFile.read(path)
    if found.epoch != epoch:
        raise ConfigError(
            f"{path}: of epoch {found.epoch}, and the run has chosen epoch {epoch}; say `cifarlab analyze "
            f"{path.parent}` again"
        )
    return found


def tiles_of(path: Path, analysis: AnalysisFile) -> list[list[Image.Image]]:
    """The hardest pictures and the most confident errors; none where the analysis was written without them.

    path: of the analysis. Raises ConfigError for a damaged file.
    """
    sheet = pictures_path(path)
    return read_tiles(sheet, [len(row) for row in analysis.worth_a_look]) if sheet.exists() else []


def data_uri(picture: Image.Image) -> str:
    """Encode a picture as a PNG in a data URI."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
