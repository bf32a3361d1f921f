"""The command line. It prints an error as one line.

Commands import torch only when they run, so that `--help` is fast.
"""

from __future__ import annotations

import io
import sys
import traceback
from typing import Any, NoReturn

from cifarlab.commands.shared import app

# isort: off
# In the order of `--help`.
from cifarlab.commands import (  # noqa: F401
    train,
    check,
    profile,
    compare,
    ladder,
    refit,
    reproduce,
    list,
    show,
    parts,
    options,
    eval,
    predict,
    plot,
    ensemble,
    soup,
    report,
    audit,
    analyze,
)
# isort: on


def main() -> None:
    """Run the command line.

    The exit status is 2 for a user's mistake and 1 for a failure.
    """
    if sys.platform == "win32":
        sys.exit("error: cifarlab does not run on Windows itself yet; it does in WSL")
    for stream in (sys.stdout, sys.stderr):
        # Escape characters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        # A command that ends itself returns its exit status, e.g. --help or an interrupt before training.
        sys.exit(app(args=arguments, standalone_mode=False))
    except Exception as error:
        from cifarlab.core.errors import ConfigError, Failure
        from cifarlab.runs.signals import Interrupted

        if debug:
            traceback.print_exc()
        if isinstance(error, Interrupted):
            print(f"\n{error}", file=sys.stderr)
            sys.exit(error.status)
        if isinstance(error, ConfigError | Failure):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2 if isinstance(error, ConfigError) else 1)
        if hasattr(error, "format_message"):
            _refuse_words(error)
        hint = "" if debug else " (the same command with --debug shows where)"
        message = " ".join(str(error).split())
        print(f"error: {type(error).__name__}: {message}{hint}", file=sys.stderr)
        sys.exit(1)


def _refuse_words(error: Any) -> NoReturn:
    """Report wrong command-line arguments, and exit.

    `error` is click's error. A command that was given no arguments prints its help instead.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        sys.exit(error.exit_code)
    said = " ".join(error.format_message().replace("Value error, ", "").split()).rstrip(".")
    command = error.ctx.command_path if getattr(error, "ctx", None) else "cifarlab"
    print(f"error: {said[:1].lower()}{said[1:]}; `{command} --help` shows its arguments", file=sys.stderr)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
