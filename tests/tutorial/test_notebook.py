"""The notebook of the tutorial: executed in a kernel, and equal to its pair in Markdown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import jupytext
import pytest
from nbclient import NotebookClient

from tests.pictures import fill_folder
from tests.systems import HANG_S

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "tutorial" / "first_model.ipynb"
LABELS = {"cats": 0.0, "dogs": 1.0}
"""Folders of the pictures, and the probability of a defect in the table of the package."""
SMALL = """
from tests.backbones import use_small_backbone

small = use_small_backbone()
small.__enter__()
PICTURES, WEIGHTS, IMAGE_SIZE = None, "random", 75
"""
"""Parameters of the test, with a small backbone in place of InceptionV3."""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Execute the notebook with other parameters, and with few pictures in place of those of the demo."""
    folder = tmp_path_factory.mktemp("notebook")
    write_demo_package(folder / "elpv_dataset")
    notebook = jupytext.read(NOTEBOOK)
    (parameters,) = [cell for cell in notebook.cells if cell.source.startswith("PICTURES =")]
    parameters.source = SMALL
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        client = NotebookClient(
            notebook, timeout=HANG_S, startup_timeout=HANG_S, resources={"metadata": {"path": str(folder)}}
        )
        asyncio.run(client.async_execute())
    return notebook


def write_demo_package(folder: Path) -> None:
    """Write a package of 18 pictures, which Python finds in the folder of the notebook before the installed one."""
    fill_folder(folder / "data", {"cats": 9, "dogs": 9})
    rows = [f"{label}/{number:03}.jpg {value} mono\n" for label, value in LABELS.items() for number in range(9)]
    (folder / "data/labels.csv").write_text("".join(rows))
    (folder / "__init__.py").touch()


def list_outputs(notebook: Any, kind: str) -> list[Any]:
    return [out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == kind]


def find_cell(notebook: Any, function: str) -> Any:
    (found,) = [cell for cell in notebook.cells if cell.cell_type == "code" and f"hs.{function}(" in cell.source]
    return found


def test_notebook_runs_and_each_result_is_shown_as_html(executed: Any) -> None:
    for function in ("extract", "train", "report", "export", "predict"):
        assert "text/html" in find_cell(executed, function).outputs[-1].data, function


@pytest.mark.parametrize(("function", "stage"), [("extract", "extract"), ("train", "train"), ("sweep", "sweep")])
def test_notebook_progress_is_one_bar_at_its_end(executed: Any, function: str, stage: str) -> None:
    shown = [
        out.data["text/html"] for out in find_cell(executed, function).outputs if out.output_type == "display_data"
    ]
    (bar,) = [html for html in shown if f'<progress aria-label="{stage}"' in html]
    value, total = (bar.partition(f'{name}="')[2].partition('"')[0] for name in ("value", "max"))
    assert value == total != "0"


def test_notebook_commands_show_tables_as_html(executed: Any) -> None:
    (table,) = [out for out in list_outputs(executed, "display_data") if "<table>" in out.data["text/html"]]
    assert "largest class" in table.data["text/html"]


def test_notebook_prints_only_warnings_on_stderr(executed: Any) -> None:
    printed = [out.text for out in list_outputs(executed, "stream") if out.name == "stderr"]
    assert [text for text in printed if "HeadstartWarning" not in text] == []


@pytest.mark.unit
def test_notebook_has_no_stored_outputs_and_equals_its_pair() -> None:
    notebook, pair = jupytext.read(NOTEBOOK), jupytext.read(NOTEBOOK.with_suffix(".md"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [(c.cell_type, c.source) for c in pair.cells]
    assert len(notebook.cells) <= 12
    assert all(cell.outputs == [] and cell.execution_count is None for cell in notebook.cells if "outputs" in cell)
