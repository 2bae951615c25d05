"""Command line for freeing disk space: `python -m train_head.prune`."""

from base.command_line import run_app
from train_head.prune.config import PruneConfig
from train_head.prune.run import prune


def main(name: str) -> None:
    """Run the command under the given program name and exit."""
    run_app(prune, PruneConfig, name)


if __name__ == "__main__":
    main("python -m train_head.prune")
