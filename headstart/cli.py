"""The `headstart` command, which runs the commands of all stages."""

from __future__ import annotations

import os
import sys

COMMANDS = {
    "extract": ("extract.__main__", "run the backbone over every new picture once and store the features"),
    "features": ("features.__main__", "describe, check, pack, merge or copy feature stores"),
    "train": ("train_head.__main__", "fit a head on stored features"),
    "compare": ("train_head.compare", "fit the same head without and with dropout"),
    "sweep": ("train_head.sweep.__main__", "fit many heads, compare them and keep the best"),
    "advise": ("train_head.advise.__main__", "compare the features of a store and of a sample of the pictures"),
    "report": (
        "train_head.report.__main__",
        "write the report of a run again; --test also evaluates the pictures in test/",
    ),
    "runs": ("train_head.runs.__main__", "list the runs below a folder"),
    "export": ("train_head.export.__main__", "write a run as one Keras model that takes raw pixels"),
    "predict": ("train_head.predict.__main__", "classify pictures with an exported model"),
    "serve": ("train_head.serve.__main__", "show a page that classifies pictures with an exported model"),
    "suggest": ("train_head.suggest.__main__", "rank unlabelled pictures by what labelling them would teach"),
}
"""Module and help line of each command; the module has a function `main(name)`."""


def main() -> None:
    """Run the command given as the first argument, with the other arguments."""
    try:
        from base import process

        process.prepare()
    except KeyboardInterrupt:
        os._exit(130)
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        import importlib

        del sys.argv[1]
        importlib.import_module(COMMANDS[name][0]).main(f"headstart {name}")
    process.exit_process(_run_option(name))


def _run_option(name: str) -> int:
    """Print the help, the version, or an error for an unknown command; return the exit status."""
    if name == "--version":
        from importlib.metadata import version

        print(f"headstart {version('headstart')}")
        return 0
    usage = "Usage: headstart COMMAND [OPTIONS]\n\nCommands:\n"
    usage += "".join(f"  {command:<10}{line}\n" for command, (_, line) in COMMANDS.items())
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
