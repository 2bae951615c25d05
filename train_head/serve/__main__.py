"""Command line of the page: `python -m train_head.serve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from base.command_line import run_app
from base.terminal import Console
from train_head.serve.config import ServeConfig


def serve(config: ServeConfig, console: Console) -> Mapping[str, Any]:
    """Show a page that classifies pictures with an exported model, until Ctrl-C ends it.

    Examples:
        headstart serve --model work/model --open
        headstart serve --model work/model --run work/run --port 8080
    """
    from train_head.serve.run import serve_model

    return serve_model(config, console)


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(serve, ServeConfig, name)


if __name__ == "__main__":
    main("python -m train_head.serve")
