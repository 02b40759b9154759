"""EchoReel without ComfyUI: python -m echoreel_core COMMAND."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from .commands import demo

COMMANDS = ("convert", "demo")
"""Each a module with `add_arguments(parser)` and `run(arguments)`, which yields the lines to print."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or 1 with one line on stderr if it failed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["demo"] and (code := demo.in_own_environment(argv)) is not None:
        return code  # this Python may have nothing installed: the others are not even imported
    modules = {name: import_module(f".commands.{name}", __package__) for name in COMMANDS}
    parser = argparse.ArgumentParser(prog="python -m echoreel_core", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in modules.items():
        module.add_arguments(commands.add_parser(name, help=module.__doc__, description=module.__doc__))
    arguments = parser.parse_args(argv)
    try:
        for line in modules[arguments.command].run(arguments):
            print(line, flush=True)
    except ValueError as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{arguments.command}: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
