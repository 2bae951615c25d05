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
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        import importlib

        del sys.argv[1]
        importlib.import_module(COMMANDS[name].module).main(f"{program} {name}")
    from headstart.root import run_root

    run_root(program)


if __name__ == "__main__":
    main()
