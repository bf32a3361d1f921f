"""An option that several commands have is one option."""

from collections import defaultdict
from typing import Any

import pytest
import typer

from cifarlab import cli
from cifarlab.commands.shared import app

pytestmark = pytest.mark.quick
# Options that mean something else in one command, with the command.
OTHERWISE = {"--root": {"audit"}, "--device": {"audit"}}


@pytest.mark.parametrize("option", ["--runs", "--root", "--device", "--imports", "--json"])
def test_an_option_has_one_help_text(option):
    assert cli.main, "it has registered the commands"
    group: Any = typer.main.get_command(app)
    helps = defaultdict(set)
    for name, command in group.commands.items():
        for parameter in command.params:
            if option in parameter.opts and name not in OTHERWISE.get(option, ()):
                helps[parameter.help].add(name)
    assert len(helps) == 1, dict(helps)
