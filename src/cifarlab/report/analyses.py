"""Reader of the files that `cifarlab analyze` wrote. It does not need the data set."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from cifarlab.core.errors import ConfigError
from cifarlab.evaluation.analysis.records import AnalysisFile
from cifarlab.evaluation.analysis.tiles import pictures_path, read_tiles

# File of each split's analysis. The page prefers the first split.
FILES = {"val": "analysis.json", "test": "analysis_test.json"}
# Headings of the noteworthy pictures, in the order of `AnalysisFile.worth_a_look`.
PICTURE_HEADINGS = ("Hardest: lowest probability of the true class", "Most confident errors")


def read_analysis(path: Path, epoch: int) -> AnalysisFile:
    """Read an analysis file, and check its epoch.

    Args:
        path: Path of the file.
        epoch: The run's chosen epoch.

    Raises:
        ConfigError: The file is damaged, is no analysis, or is of another epoch's model.
    """
    found = AnalysisFile.read(path)
    if found.epoch != epoch:
        raise ConfigError(
            f"{path}: analysis of epoch {found.epoch}, but the run's chosen epoch is {epoch}; run "
            f"`cifarlab analyze {path.parent}` again"
        )
    return found


def tiles_of(path: Path, analysis: AnalysisFile) -> list[list[Image.Image]]:
    """Read the pictures beside an analysis.

    Args:
        path: Path of the analysis.
        analysis: The analysis.

    Returns:
        The hardest pictures, and the most confident errors. Empty if the analysis has no file of pictures.

    Raises:
        ConfigError: The file is damaged.
    """
    sheet = pictures_path(path)
    return read_tiles(sheet, [len(row) for row in analysis.worth_a_look]) if sheet.exists() else []


def data_uri(picture: Image.Image) -> str:
    """Encode a picture as a PNG in a data URI."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
