"""Loading of a run's model: a damaged checkpoint is refused in one line."""

import pytest
import torch

from cifarlab.core.errors import ConfigError
from cifarlab.runs.model import load
from tests.tiny import PARTS, train_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("runs") / "tiny" / "0", "train.epochs=1")[0]


@pytest.mark.parametrize("damage", [[1], {1: torch.zeros(2)}, {"head.fc.bias": 1}, None, "weights"], ids=str)
def test_weights_that_are_none_are_damage(run, tmp_path, damage):
    path = tmp_path / "best.pt"
    torch.save({**torch.load(run.best_path, weights_only=True), "model": damage}, path)
    with pytest.raises(ConfigError) as caught:
        load(path, imports=[PARTS])
    assert str(caught.value).startswith(f"{path}: damaged: model")
    assert "\n" not in str(caught.value)


def test_a_device_that_the_machine_lacks_is_an_argument(run):
    with pytest.raises(ConfigError, match=r"^device: this machine has no cuda:99; use device=auto$"):
        load(run.folder, device="cuda:99", imports=[PARTS])
