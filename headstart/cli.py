"""The `headstart` command, which runs the commands of all stages."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command given as the first argument, with the other arguments."""
    try:
        from base import process

        process.prepare()
    except KeyboardInterrupt:
        os._exit(130)
    from base.commands import COMMANDS

    program = "python -m headstart" if sys.argv[0].endswith("__main__.py") else "headstart"
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        import importlib

        del sys.argv[1]
        importlib.import_module(COMMANDS[name].module).main(f"{program} {name}")
    process.exit_process(_run_option(name))


def _run_option(name: str) -> int:
    """Print the help, the version, or an error for an unknown command; return the exit status."""
    from base.commands import COMMANDS

    if name == "--version":
        from base.version import find_version

        print(f"headstart {find_version('headstart')}")
        return 0
    usage = "Usage: headstart COMMAND [OPTIONS]\n\nCommands:\n"
    usage += "".join(f"  {command:<10}{entry.summary}\n" for command, entry in COMMANDS.items())
    usage += "\n`headstart COMMAND --help` lists the options of a command; `headstart --version` prints the version."
    if name in ("--help", "-h"):
        print(usage)
        return 0
    import difflib

    nearest = difflib.get_close_matches(name, COMMANDS, 1)
    advice = f"Did you mean {nearest[0]}?" if nearest else "`headstart --help` lists the commands."
    print(f"error: headstart: expected a command, got {name!r}. {advice}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
