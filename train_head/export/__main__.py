"""Command line of the export: `python -m train_head.export`."""

from base.command_line import run_app
from train_head.config import ExportConfig
from train_head.export.write import export

if __name__ == "__main__":
    run_app(export, ExportConfig, "python -m train_head.export")
