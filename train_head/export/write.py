"""Export a run: one Keras model, which appears only if it agrees with its parts."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from base.errors import HeadstartError, UsageError
from base.replace import Target, replace_folder
from base.terminal import Console, import_quietly
from features.store import FeatureStore
from train_head.config import ExportConfig
from train_head.runs.card import LABELS_FILE, MODEL_FILE, ModelCard, format_labels, read_card
from train_head.runs.read import Run

if TYPE_CHECKING:
    import keras

    from train_head.export.parity import Parity
    from train_head.export.rebuild import Rebuilt

FORMATS = ("keras",)


@dataclass(frozen=True)
class ExportResult:
    """An exported model, and how well it agrees with its parts."""

    files: list[Path]
    """`model.keras` and `labels.txt`; none where they do not agree."""
    parity: Parity
    num_validation: int
    """Validation pictures of the run, of which `parity.num_pictures` were compared."""

    def load(self) -> keras.Model:
        """Load the model with Keras: (n, height, width, 3) RGB in 0-255, any size, to probabilities."""
        import_quietly("keras")
        import keras

        return keras.saving.load_model(self.files[0])

    def to_json(self) -> dict[str, Any]:
        """Return what `--json` prints; a number that is not finite, which JSON has not, is None."""
        values = asdict(self.parity)
        for found in (values, *values["worst"]):
            found.update({name: None for name, value in found.items() if value != value})
        return {"files": [*map(str, self.files)], "parity": {"keras": values["max_difference"]}, **values}

    def __repr__(self) -> str:
        """Return the files, and how they were checked, in one line."""
        found, files = self.parity, ", ".join(map(str, self.files)) or "no file"
        return (
            f"ExportResult({files}: checked on {found.num_pictures:,} pictures, accuracy {found.accuracy:.4f}, "
            f"largest difference {found.max_difference:.2g})"
        )

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>"


class ParityError(HeadstartError):
    """An exported model that does not agree with its parts; no file was written."""

    result: ExportResult
    """The differences, and no files."""


def export_run(config: ExportConfig, console: Console) -> ExportResult:
    """Stitch a run's backbone and head into one Keras model that takes raw pixels, and check it on real pictures.

    Raises:
        ParityError: the model, reloaded from disk, does not agree with its parts; an earlier export stays.
        HeadstartError: the run, its store, its pictures, or the folder cannot be used.
    """
    unknown = [name for name in config.formats.split(",") if name not in FORMATS]
    if unknown:
        raise UsageError("--formats", " or ".join(FORMATS), repr(unknown[0]), "Leave the option out")
    if config.out.exists() and not config.out.is_dir():
        raise UsageError(config.out, "a folder for the model", "a file", "Give another --out (OUT=)")
    run = Run(config.run)
    store = run.open_store(config.store)
    split = run.find_split(store)
    images = run.find_images(store, config.images)
    if not images:
        raise UsageError("--images", "the folder of the pictures", f"no path in the pack {store.path}", "Give --images")
    with replace_folder(describe_target(config.out)) as replacement, TemporaryFile() as file:
        import_quietly("keras")
        import keras

        from train_head.export.load import compile_model
        from train_head.export.parity import check_parity
        from train_head.export.pictures import Pictures, order_by_class
        from train_head.export.rebuild import rebuild_parts

        size, ordered = store.fingerprint.image_size, order_by_class(split.validation)
        pictures = Pictures(Path(images), ordered, size, file, config.check, config.max_pixels)
        pictures.load(console)
        rebuilt = rebuild_parts(run, store, split, config.weights, console)
        _write_files(config, run, store, rebuilt, replacement.staging)
        staged = keras.saving.load_model(replacement.staging / MODEL_FILE, compile=False)
        parity = check_parity(compile_model(staged), rebuilt, store, run.record.classes, pictures, console)
        if not parity.ok:
            raise _disagree(config.out, ExportResult([], parity, len(split.validation)))
        replacement.commit()
    if parity.num_gone:
        console.warning(
            f"{parity.num_gone:,} validation pictures are gone or have changed; the model was checked on "
            f"{parity.num_pictures:,} others"
        )
    if parity.num_flipped:
        console.warning(
            f"{parity.num_flipped:,} of {parity.num_pictures:,} pictures have other labels than on stored features, "
            f"made in {store.fingerprint.precision}; accuracy {parity.stored_accuracy:.4f} on those, "
            f"{parity.accuracy:.4f} from pixels"
        )
    return ExportResult([config.out / MODEL_FILE, config.out / LABELS_FILE], parity, len(split.validation))


def describe_target(out: Path) -> Target:
    """Describe the files of a folder that an export replaces: its own two, and no others."""
    return Target(out, {MODEL_FILE: None, LABELS_FILE: None}, refuse_foreign_files, "--out (OUT=)")


def refuse_foreign_files(out: Path) -> None:
    """Raise HeadstartError where a folder's model.keras or labels.txt was not made by an export."""
    model, labels = out / MODEL_FILE, out / LABELS_FILE
    advice = "Move it, or give another --out (OUT=)"
    if not model.exists():
        raise HeadstartError(labels, f"a {LABELS_FILE} beside the {MODEL_FILE} of an export", "one alone", advice)
    try:
        classes = read_card(model).classes
    except HeadstartError as error:
        raise HeadstartError(model, "an earlier export", error.got, advice) from error
    # Exports before the escape of every line's end wrote the second.
    older = "".join(label.replace("\n", "\\n") + "\n" for label in classes).encode("utf-8", "surrogateescape")
    allowed = (format_labels(classes), older)
    if labels.exists() and (labels.stat().st_size > max(map(len, allowed)) or labels.read_bytes() not in allowed):
        raise HeadstartError(labels, f"the class names of {model}", "others", advice)


def _write_files(config: ExportConfig, run: Run, store: FeatureStore, rebuilt: Rebuilt, folder: Path) -> None:
    from extract.decode import DECODE_POLICY
    from train_head.export.stitch import save_model, stitch

    fingerprint, origin = store.fingerprint, store.origin
    card = ModelCard(
        classes=run.record.classes,
        image_size=fingerprint.image_size,
        decode_policy=DECODE_POLICY,
        cut=rebuilt.cut,
        weights=Path(origin.weights_file).name if origin.weights_name == "file" else origin.weights_name,
        fingerprint=fingerprint.digest,
        val_accuracy=run.read_metrics()["val_accuracy"],
        unfreeze_from=run.unfreeze_from,
        weights_sha256=fingerprint.weights_sha256,
        run=run.record.head,
    )
    try:
        card.check()
        save_model(stitch(rebuilt.backbone, rebuilt.head, card.image_size), card, folder / MODEL_FILE)
        (folder / LABELS_FILE).write_bytes(format_labels(card.classes))
    except ValueError as error:
        raise HeadstartError(run.folder, "a run's values", str(error), "Train it again with --overwrite") from error
    except OSError as error:
        got, advice = error.strerror or str(error), "Make room, or give another --out (OUT=)"
        raise HeadstartError(config.out, "room and permission for the model", got, advice) from error


def _disagree(folder: Path, result: ExportResult) -> ParityError:
    from train_head.export.parity import TOLERANCE

    found = result.parity
    worst = ", ".join(f"{picture['image']} by {picture['difference']:.2g}" for picture in found.worst)
    error = ParityError(
        folder,
        f"a model within {TOLERANCE:g} in probability of backbone and head, within "
        f"{found.stored_difference_allowed:g} of the head on the stored features, and with at most "
        f"{found.num_flips_allowed:,} other labels",
        f"{found.max_difference:.2g}, {found.max_stored_difference:.2g} and {found.num_flipped:,} labels; "
        f"most for {worst}",
        "No file was written; extract and train again, then export",
    )
    error.result = result
    return error
