"""Files of a run that are damaged or another's: what is said when it is to go on."""

import shutil

import pytest

from cifarlab.core.errors import ConfigError
from tests.tiny import train_tiny


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs of one epoch: one to damage, one of a smaller model."""
    folder = tmp_path_factory.mktemp("runs")
    run, _ = train_tiny(folder / "run", "train.epochs=1")
    smaller, _ = train_tiny(
        folder / "smaller", "train.epochs=1", "model.backbone={name: tiny, width: 4, dropout: 0.1}"
    )
    run.summary_path.unlink()
    return run, smaller


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("last.pt", "cut off", "not a readable checkpoint"),
        ("best.pt", "cut off", "not a readable checkpoint"),
        ("best.pt", "gone", "no such checkpoint"),
        ("last.pt", "best.pt", "not a checkpoint of cifarlab"),
        ("best.pt", "last.pt", "not a checkpoint of cifarlab"),
        ("last.pt", "smaller", "does not fit its configuration"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, others, name, damage, reason):
    run, smaller = others
    shutil.copytree(run.folder, tmp_path / "run")
    file = tmp_path / "run" / name
    if damage == "cut off":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "gone":
        file.unlink()
    elif damage == "smaller":
        shutil.copy(smaller.folder / name, file)
    else:
        shutil.copy(run.folder / damage, file)
    with pytest.raises(ConfigError) as error:
        train_tiny(tmp_path / "run", "train.epochs=1")
    message = str(error.value)
    assert message.startswith(f"{file}: {reason}"), message
    assert message.endswith("; `--fresh` starts over"), message
    assert "\n" not in message
    train_tiny(tmp_path / "run", "train.epochs=1", fresh=True)
