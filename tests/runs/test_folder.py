"""The folder of a run: its configuration, read by several commands."""

import pytest

from cifarlab.core.errors import ConfigError
from cifarlab.runs.folder import Run
from cifarlab.runs.model import saved_recipe
from tests.tiny import tiny_config

DAMAGE = {"not YAML": b"a: {", "not text": b"\xff", "a section": b"data: {}"}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_only_a_command_that_trains_is_told_to_start_over(tmp_path, content):
    run = Run(tmp_path / "runs" / "a" / "0")
    run.folder.mkdir(parents=True)
    run.config_path.write_bytes(content)
    for read in (run.plain_config, lambda: saved_recipe(run)):
        with pytest.raises(ConfigError, match=r"config\.yaml") as caught:
            read()
        assert "fresh" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"; `--fresh` starts over$"):
        run.refuse_other(tiny_config())
    with pytest.raises(ConfigError, match=r"; repair it$"):
        run.refuse_other(tiny_config(), "repair it")


def test_a_lost_configuration_is_followed_by_the_commands_own_advice(tmp_path):
    run = Run(tmp_path)
    run.last_path.touch()
    with pytest.raises(ConfigError, match=r"config\.yaml is missing; `--fresh` starts over$"):
        run.refuse_other(tiny_config())
    with pytest.raises(ConfigError, match=r"config\.yaml is missing; repair it$"):
        run.refuse_other(tiny_config(), "repair it")
