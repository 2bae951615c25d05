"""Earlier export of the same run with the same options, which is kept instead of being computed again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from base.errors import HeadstartError
from base.version import find_version
from train_head.export.config import Dtype, ExportConfig, Format
from train_head.export.description import DESCRIPTION_FILE, read_description
from train_head.export.gate import FormatCheck
from train_head.export.parity import Parity
from train_head.export.result import ExportResult
from train_head.export.target import PARITY_FILE
from train_head.runs.read import Run

_PLACES = ("run", "out", "store", "images", "weights")
"""Options that are paths and do not affect the model."""


def encode_result(run: Run, config: ExportConfig, formats: Sequence[Format], result: ExportResult) -> str:
    """Return the content of parity.json: the result, the run, and the options.

    Args:
        run: the exported run.
        config: options of the export.
        formats: formats that were written; others may have failed.
        result: result of the export.
    """
    # The output folder's path may contain the name of the user.
    values = result.to_json() | {"files": [path.name for path in result.files], "num_validation": result.num_validation}
    return json.dumps(values | _describe(run, config, formats), indent=2) + "\n"


def find_earlier_export(run: Run, config: ExportConfig, formats: Sequence[Format]) -> ExportResult | None:
    """Return the result of an earlier export of the run with these options; None if the model must be written.

    An export by another version of Headstart is written again, and one whose check skipped missing pictures is checked
    again. The files of the folder must be those that its description lists.
    """
    try:
        description = read_description(config.out / DESCRIPTION_FILE)
    except HeadstartError:
        return None
    if not all((config.out / name).exists() for name in (*description.files, PARITY_FILE)):
        return None
    if description.versions.get("headstart") != find_version("headstart") or not run.record.digest:
        return None
    values = json.loads((config.out / PARITY_FILE).read_text())
    if any(values.get(name) != value for name, value in _describe(run, config, formats).items()):
        return None
    result = ExportResult(
        [config.out / name for name in values["files"]],
        Parity(**{**{each.name: values[each.name] for each in fields(Parity)}, "worst": tuple(values["worst"])}),
        values["num_validation"],
        [
            FormatCheck(**{**check, "format": Format(check["format"]), "dtype": Dtype(check["dtype"])})
            for check in values["formats"].values()
        ],
    )
    return None if result.parity.num_gone else result


def _describe(run: Run, config: ExportConfig, formats: Sequence[Format]) -> dict[str, Any]:
    """Return what an export is made from: the digest of the run, and the options."""
    options = {name: value for name, value in asdict(config).items() if name not in _PLACES}
    return {"run": run.record.digest, "options": {**options, "formats": list(formats)}}
