"""Export a run as one Keras model; the files are written only if the model agrees with its parts."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError, UsageError
from base.replace import Target, replace_folder
from base.terminal import Console, format_count, import_quietly
from extract.decoding.policy import DecodePolicy, find_policy
from features.store import FeatureStore
from train_head.config import ExportConfig
from train_head.data.split import order_by_class
from train_head.export.thresholds import check_threshold, choose_label_thresholds
from train_head.runs.card import LABELS_FILE, MODEL_FILE, ModelCard, format_labels, read_card
from train_head.runs.read import Run

if TYPE_CHECKING:
    import keras

    from train_head.export.parity import Parity
    from train_head.export.rebuild import ModelParts

FORMATS = ("keras",)


@dataclass(frozen=True)
class ExportResult:
    """Result of an export: the files, and the differences between the model and its parts."""

    files: list[Path]
    """Paths of `model.keras` and `labels.txt`; empty if the check failed."""
    parity: Parity
    """Differences on `parity.num_pictures` of the validation pictures."""
    num_validation: int
    """Number of validation pictures of the run."""

    def load(self) -> keras.Model:
        """Load the exported model with Keras.

        Returns:
            A `keras.Model` from (n, height, width, 3) RGB pixels in 0-255, of any size, to probabilities: (n, 1) of the
            second class if there are two classes, else (n, classes). A row adds up to 1, unless pictures have several
            labels. With `outlier_score`, the output is a dictionary of `probability` and `distance`, (n, 1).
        """
        import_quietly("keras")
        import keras

        return keras.saving.load_model(self.files[0])

    def to_json(self) -> dict[str, Any]:
        """Return the result for `--json`; NaN becomes None, because JSON has no NaN."""
        values = asdict(self.parity)
        for found in (values, *values["worst"]):
            found.update({name: None for name, value in found.items() if value != value})
        return {"files": [*map(str, self.files)], "parity": {"keras": values["max_difference"]}, **values}

    def __repr__(self) -> str:
        """Return the files and the result of the check in one line."""
        found, files = self.parity, ", ".join(map(str, self.files)) or "no file"
        return (
            f"ExportResult({files}: checked on {format_count(found.num_pictures, 'picture')}, "
            f"accuracy {found.accuracy:.4f}, largest difference {found.max_difference:.2g})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"


class ParityError(HeadstartError):
    """Exported model that does not agree with its parts; no file was written."""

    result: ExportResult
    """Result with the differences, without files."""


def export_run(config: ExportConfig, console: Console) -> ExportResult:
    """Join a run's backbone and head into one Keras model that takes raw pixels, check it, and write it.

    The model is saved to a staging folder, loaded again, and checked on validation pictures.

    Raises:
        UsageError: an unknown format, an invalid threshold, a file in place of the output folder, or no folder of
            pictures.
        ParityError: the loaded model does not agree with its parts; an earlier export is kept.
        HeadstartError: the run, its store, its pictures or the output folder cannot be used.
    """
    unknown = [name for name in config.formats.split(",") if name not in FORMATS]
    if unknown:
        raise UsageError("--formats", " or ".join(FORMATS), repr(unknown[0]), "Leave `formats` out")
    if config.out.exists() and not config.out.is_dir():
        raise UsageError(config.out, "a folder for the model", "a file", "Give another `out`")
    run = Run(config.run)
    check_threshold(run, config.threshold)
    store = run.open_store(config.store)
    split = run.find_split(store)
    images = run.find_images(store, config.images)
    policy = _find_policy(store)
    if not images:
        got = f"no path in the packed store {store.path}"
        raise UsageError("--images", "the folder of the pictures", got, "Give `images`")
    if config.outlier_score and run.read_outliers() is None:
        got, advice = "none in the run", "Leave the option out; docs/outliers.md lists the runs without a detector"
        raise UsageError("--outlier-score", "a run with a detector of outliers", got, advice)
    with replace_folder(describe_target(config.out)) as replacement, TemporaryFile() as file:
        import_quietly("keras")
        import keras

        from train_head.export.load import compile_outputs
        from train_head.export.parity import check_parity
        from train_head.export.pictures import Pictures
        from train_head.export.rebuild import rebuild_parts

        size, ordered = store.fingerprint.image_size, order_by_class(split.validation)
        pictures = Pictures(Path(images), ordered, size, file, config.check, config.max_pixels, policy)
        pictures.load(console)
        parts = rebuild_parts(run, store, split, config.weights, console)
        _write_files(config, run, store, parts, replacement.staging)
        staged = keras.saving.load_model(replacement.staging / MODEL_FILE, compile=False)
        parity = check_parity(compile_outputs(staged), parts, store, run.record.classes, pictures, console)
        if not parity.ok:
            raise _build_parity_error(config.out, ExportResult([], parity, len(split.validation)))
        replacement.commit()
    if parity.num_gone:
        console.warning(
            f"{format_count(parity.num_gone, 'validation picture')} skipped: missing or changed since extraction. "
            f"The model was checked on {format_count(parity.num_pictures, 'other picture')}. "
            "Give `images` if the folder was moved"
        )
    if parity.num_flipped:
        console.warning(
            f"{parity.num_flipped:,} of {format_count(parity.num_pictures, 'picture')} with a different label from "
            f"pixels than from the stored features, which were computed in {store.fingerprint.precision}. "
            f"Accuracy from pixels: {parity.accuracy:.4f}; from the stored features: {parity.stored_accuracy:.4f}. "
            "Extract in float32 if the labels must agree"
        )
    return ExportResult([config.out / MODEL_FILE, config.out / LABELS_FILE], parity, len(split.validation))


def _find_policy(store: FeatureStore) -> DecodePolicy:
    """Return the decode policy of a store, which is also that of its exported models."""
    text = store.fingerprint.decode_policy
    policy = find_policy(text)
    if policy is None:
        expected, advice = "a decode policy of this version", "Export with the version that extracted the features"
        raise HeadstartError(store.path, expected, repr(text), advice)
    return policy


def describe_target(out: Path) -> Target:
    """Describe the output folder of an export: the two files in it that may be replaced."""
    return Target(out, {MODEL_FILE: None, LABELS_FILE: None}, refuse_foreign_files, "`out`")


def refuse_foreign_files(out: Path) -> None:
    """Raise HeadstartError if a folder's model.keras or labels.txt was not written by an export."""
    model, labels = out / MODEL_FILE, out / LABELS_FILE
    advice = "Move it, or give another `out`"
    if not model.exists():
        raise HeadstartError(labels, f"the {LABELS_FILE} of an export", f"a file without {MODEL_FILE}", advice)
    try:
        classes = read_card(model).classes
    except HeadstartError as error:
        raise HeadstartError(model, "an earlier export", error.got, advice) from error
    # Earlier versions escaped "\n" only.
    older = "".join(label.replace("\n", "\\n") + "\n" for label in classes).encode("utf-8", "surrogateescape")
    allowed = (format_labels(classes), older)
    if labels.exists() and (labels.stat().st_size > max(map(len, allowed)) or labels.read_bytes() not in allowed):
        raise HeadstartError(labels, f"the class names of {model}", "different content", advice)


def _write_files(config: ExportConfig, run: Run, store: FeatureStore, parts: ModelParts, folder: Path) -> None:
    from train_head.export.distance import DISTANCE_NAME, build_distance, encode_arrays, list_arrays
    from train_head.export.stitch import save_model, stitch

    fingerprint, origin, detector = store.fingerprint, store.origin, run.read_outliers()
    card = ModelCard(
        classes=run.record.classes,
        image_size=fingerprint.image_size,
        decode_policy=fingerprint.decode_policy,
        cut=parts.cut,
        weights=Path(origin.weights_file).name if origin.weights_name == "file" else origin.weights_name,
        fingerprint=fingerprint.digest,
        val_accuracy=run.read_metrics()["val_accuracy"],
        unfreeze_from=run.unfreeze_from,
        weights_sha256=fingerprint.weights_sha256,
        run=run.record.head,
        pool=parts.pool.value,
        scales=list(store.scales),
        is_multi_label=run.is_multi_label,
        thresholds=choose_label_thresholds(run, config.threshold) if run.is_multi_label else [],
        outlier_threshold=detector.threshold if detector else None,
    )
    try:
        card.check()
        arrays = list_arrays(detector.model) if detector else []
        distance = build_distance(parts.backbone.output_shape[1:], arrays) if config.outlier_score else None
        added = {DISTANCE_NAME: encode_arrays(arrays)} if arrays and not distance else {}
        model = stitch(parts.backbone, parts.head, card.image_size, distance)
        save_model(model, card, folder / MODEL_FILE, added)
        (folder / LABELS_FILE).write_bytes(format_labels(card.classes))
    except ValueError as error:
        advice = "Train it again with `overwrite`"
        raise HeadstartError(run.folder, "valid metrics and classes", str(error), advice) from error
    except OSError as error:
        got, advice = error.strerror or str(error), "Free some space, check the permissions, or give another `out`"
        raise HeadstartError(config.out, "a writable folder with free space", got, advice) from error


def _build_parity_error(folder: Path, result: ExportResult) -> ParityError:
    from train_head.export.parity import DISTANCE_TOLERANCE, TOLERANCE

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
