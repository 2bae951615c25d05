"""Result of an export, and the error of an export that failed its check."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError
from base.notebook import render_table
from base.terminal import format_bytes, format_count, format_list, import_quietly
from train_head.evaluation.uncertainty import name_accuracy
from train_head.export.config import Dtype, Format
from train_head.export.description import DESCRIPTION_FILE, read_description
from train_head.export.gate import FormatCheck, describe_limits
from train_head.export.parity import DISTANCE_TOLERANCE, TOLERANCE, Parity
from train_head.runs.card import MODEL_FILE

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class ExportResult:
    """Result of an export: the files, and the differences between the model and its parts."""

    files: list[Path]
    """Files and folders of each format, and `labels.txt`; empty if the check failed."""
    parity: Parity
    """Differences on `parity.num_pictures` of the validation pictures."""
    num_validation: int
    """Number of validation pictures of the run."""
    checks: list[FormatCheck] = field(default_factory=list)
    """Differences between the Keras model and each other format."""

    def load(self) -> keras.Model:
        """Load the exported model with Keras.

        Returns:
            A `keras.Model` from (n, height, width, 3) RGB pixels in 0-255, of any size, to probabilities: (n, 1) of the
            second class if there are two classes, else (n, classes). A row adds up to 1, unless pictures have several
            labels. With `outlier_score`, the output is a dictionary of `probability` and `distance`, (n, 1).

        Raises:
            HeadstartError: the format keras was not exported.
        """
        found = next((path for path in self.files if path.name == MODEL_FILE), None)
        if found is None:
            raise HeadstartError("load", f"an export with {MODEL_FILE}", "other formats", "Export the format keras too")
        import_quietly("keras")
        import keras

        return keras.saving.load_model(found)

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`; NaN becomes None, because JSON has no NaN."""
        values = asdict(self.parity)
        for found in (values, *values["worst"]):
            found.update({name: None for name, value in found.items() if value != value})
        formats = {str(check.format): check.to_json() for check in self.checks}
        differences = {name: check["max_difference"] for name, check in formats.items()}
        parity = {"keras": values["max_difference"], **differences}
        return {"files": [*map(str, self.files)], "parity": parity, **values, "formats": formats}

    def __repr__(self) -> str:
        """Return the files and the result of the check in one line."""
        found, files = self.parity, ", ".join(map(str, self.files)) or "no file"
        return (
            f"ExportResult({files}: checked on {format_count(found.num_pictures, 'picture')}, "
            f"accuracy {found.accuracy:.4f}, largest difference {found.max_difference:.2g})"
        )

    def _repr_html_(self) -> str:
        try:
            return render_table(f"exported model in {self.files[0].parent}", self.list_rows())
        except (IndexError, OSError, HeadstartError):
            # A notebook can show an export that failed its check, or whose folder was deleted.
            return html.escape(repr(self))

    def list_rows(self) -> list[tuple[str, str]]:
        """Return the rows of the table that describes the export: files, classes and differences.

        Raises:
            HeadstartError: the model's description cannot be read.
            OSError: a file cannot be read.
        """
        card, parity = read_description(self.files[0].parent / DESCRIPTION_FILE).card, self.parity
        classes = card.classes
        if card.is_multi_label:
            pairs = zip(card.classes, card.thresholds, strict=True)
            classes = [f"{label} from {threshold:g}" for label, threshold in pairs]
        near_ties = ", except near ties" if parity.accuracy != parity.stored_accuracy else ""
        labels = format_count(parity.num_flipped, "different label") if parity.num_flipped else "same labels"
        validation = format_count(self.num_validation, "validation picture")
        return [
            *((path.name, format_bytes(_measure_path(path))) for path in self.files),
            ("labels" if card.is_multi_label else "classes", format_list(classes)),
            ("checked on", f"{parity.num_pictures:,} of {validation}"),
            (f"{name_accuracy(is_multi_label=card.is_multi_label)} on these pictures", f"{parity.accuracy:.4f}"),
            ("difference from backbone and head", f"at most {parity.max_difference:.2g} in probability"),
            (
                "difference from stored features",
                f"at most {parity.max_stored_difference:.2g} in probability, {labels}{near_ties}",
            ),
            *(
                (
                    f"difference of {check.format} ({check.dtype}) from Keras",
                    f"at most {check.max_difference:.2g} in probability, "
                    f"{format_count(check.num_changed, 'changed label')} on "
                    f"{format_count(check.num_pictures, 'picture')}",
                )
                for check in self.checks
            ),
        ]


def _measure_path(path: Path) -> int:
    """Return the number of bytes of a file, or of the files in a folder."""
    files = [path] if path.is_file() else [inside for inside in path.rglob("*") if inside.is_file()]
    return sum(file.stat().st_size for file in files)


class ParityError(HeadstartError):
    """Exported model that does not agree with its parts, or format that does not agree with the Keras model."""

    result: ExportResult
    """Result with the differences, and with the files of the formats that agree."""


def build_parity_error(folder: Path, result: ExportResult) -> ParityError:
    """Build the error of a Keras model that does not agree with its parts."""
    found = result.parity
    worst = ", ".join(f"{picture['image']} {picture['difference']:.2g}" for picture in found.worst)
    error = ParityError(
        folder,
        f"differences in probability of at most {TOLERANCE:g} from the separate backbone and head, "
        f"differences of at most {found.stored_difference_allowed:g} from the head on the stored features, and at most "
        f"{format_count(found.num_flips_allowed, 'different label')}; and distances that differ by at most "
        f"{DISTANCE_TOLERANCE:.1%}",
        f"differences of {found.max_difference:.2g} and {found.max_stored_difference:.2g}, "
        f"{format_count(found.num_flipped, 'different label')} (largest differences: {worst}), and distances that "
        f"differ by {found.max_distance_difference:.2%}",
        "Extract, train and export again; no file was written",
    )
    error.result = result
    return error


def build_format_error(failed: Mapping[Format, FormatCheck | HeadstartError], result: ExportResult) -> ParityError:
    """Build the error of the formats that could not be converted, or that do not agree with the Keras model."""
    expected, got, advice = [], [], "Leave these formats out"
    for each, problem in failed.items():
        if not isinstance(problem, FormatCheck):
            expected.append(problem.expected)
            got.append(problem.got)
            continue
        expected.append(f"{each} with {describe_limits(problem.dtype)}")
        got.append(problem.describe())
        if problem.dtype is not Dtype.FLOAT32:
            advice = f"Leave these formats out, or give --dtype {Dtype.FLOAT32}"
    names = ", ".join(path.name for path in result.files)
    advice += f". The other formats were written: {names}" if names else "; no file was written"
    error = ParityError(f"--formats {','.join(failed)}", "; ".join(expected), "; ".join(got), advice)
    error.result = result
    return error
