"""Command line of the export: one Keras model, which appears only if it agrees with its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base.command_line import CommandFailed
from base.errors import HeadstartError, UsageError
from base.replace import Target, replace_folder
from base.terminal import Console, format_bytes, import_quietly
from features.store import FeatureStore
from train_head.config import ExportConfig
from train_head.data.split import Split
from train_head.export.card import LABELS_FILE, MODEL_FILE, format_labels
from train_head.runs.read import Run

if TYPE_CHECKING:
    from train_head.export.parity import Parity, Parts
    from train_head.export.pictures import LoadedPictures

FORMATS = ("keras",)


def export(config: ExportConfig, console: Console) -> Mapping[str, Any]:
    """Stitch backbone and head into one Keras model that takes raw pixels, and check it on real pictures."""
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
    with replace_folder(describe_target(config.out)) as replacement:
        import_quietly("keras")
        from train_head.export.pictures import Pictures, load_pictures, order_by_class

        pictures = Pictures(Path(images), order_by_class(split.validation), config.check, config.max_pixels)
        with load_pictures(pictures, store.fingerprint.image_size, console) as loaded:
            parts = write_export(config, run, store, split, replacement.staging, console)
            parity = check_export(replacement.staging / MODEL_FILE, parts, store, loaded, console)
        replacement.commit()
    files = [config.out / MODEL_FILE, config.out / LABELS_FILE]
    _warn_of_differences(parity, store.fingerprint.precision, console)
    _show_export(files, parity, split, console)
    return describe_result(files, parity)


def describe_target(out: Path) -> Target:
    """Describe what an export replaces in a folder: its own two files, and nothing else."""
    return Target(out, {MODEL_FILE: None, LABELS_FILE: None}, refuse_foreign_files, "--out (OUT=)")


def refuse_foreign_files(out: Path) -> None:
    """Raise HeadstartError where a folder's model.keras or labels.txt was not made by an export."""
    from train_head.export.model_file import read_card

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


def write_export(
    config: ExportConfig, run: Run, store: FeatureStore, split: Split, folder: Path, console: Console
) -> Parts:
    """Write a run's model and its class names into a folder, and return what the model was made of.

    Raises:
        HeadstartError: something that the user can fix.
    """
    from extract.decode import DECODE_POLICY
    from extract.pixels import prepare_pixels
    from train_head.export.card import ModelCard
    from train_head.export.model import save_model
    from train_head.export.parity import Parts
    from train_head.export.rebuild import rebuild_parts
    from train_head.export.stitch import stitch

    fingerprint, origin = store.fingerprint, store.origin
    rebuilt = rebuild_parts(run, store, split, config.weights, console)
    model = stitch(rebuilt.backbone, rebuilt.head, fingerprint.image_size)
    card = ModelCard(
        classes=split.classes,
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
        save_model(model, card, folder / MODEL_FILE)
        (folder / LABELS_FILE).write_bytes(format_labels(card.classes))
    except ValueError as error:
        raise HeadstartError(run.folder, "a run's values", str(error), "Train it again with --overwrite") from error
    except OSError as error:
        got, advice = error.strerror or str(error), "Make room, or give another --out (OUT=)"
        raise HeadstartError(config.out, "room and permission for the model", got, advice) from error
    # Keras's own graph: the engine's is hardly faster, and folds batch normalisation.
    return Parts(
        partial(prepare_pixels, image_size=fingerprint.image_size),
        rebuilt.backbone.predict_on_batch,
        rebuilt.head.predict_on_batch,
        rebuilt.run_stored,
    )


def check_export(model: Path, parts: Parts, store: FeatureStore, pictures: LoadedPictures, console: Console) -> Parity:
    """Reload an exported model, and compare it with its parts.

    Raises:
        CommandFailed: they disagree.
    """
    from train_head.export.model import ExportedModel
    from train_head.export.parity import TOLERANCE, check_parity

    exported = ExportedModel(model)
    with console.progress("check", len(pictures.examples), "pictures") as progress:
        parity = check_parity(exported, parts, store, pictures, progress.advance)
    if not parity.ok:
        worst = ", ".join(f"{found.image} by {found.difference:.2g}" for found in parity.worst)
        console.warn(
            f"the exported model differs by up to {parity.max_difference:.2g} in probability from backbone and head "
            f"({TOLERANCE:g} is allowed), by up to {parity.max_stored_difference:.2g} from the head on the stored "
            f"features ({parity.stored_difference_allowed:g} is allowed), and in {parity.num_flipped:,} labels "
            f"({parity.num_flips_allowed:,} are allowed); most for {worst}; no file was written"
        )
        raise CommandFailed(describe_result([], parity))
    return parity


def describe_result(files: Sequence[Path], parity: Parity) -> dict[str, Any]:
    """Describe an export for `--json`; a number that is not finite, which JSON has not, is None."""
    values = asdict(parity)
    for found in (values, *values["worst"]):
        found.update({name: None for name, value in found.items() if value != value})
    return {"files": [str(file) for file in files], "parity": {"keras": values["max_difference"]}, **values}


def _warn_of_differences(parity: Parity, precision: str, console: Console) -> None:
    if parity.num_gone:
        console.warn(
            f"{parity.num_gone:,} validation pictures are gone or have changed; the model was checked on "
            f"{parity.num_pictures:,} others"
        )
    if parity.num_flipped:
        console.warn(
            f"{parity.num_flipped:,} of {parity.num_pictures:,} pictures have other labels than on stored features, "
            f"made in {precision}; accuracy {parity.stored_accuracy:.4f} on those, {parity.accuracy:.4f} from pixels"
        )


def _show_export(files: Sequence[Path], parity: Parity, split: Split, console: Console) -> None:
    flipped = f"{parity.num_flipped:,} other labels" if parity.num_flipped else "same labels"
    console.show_table(
        f"exported model in {files[0].parent}",
        [
            *((file.name, format_bytes(file.stat().st_size)) for file in files),
            ("classes", ", ".join(split.classes)),
            (
                "checked on",
                f"{parity.num_pictures:,} of {len(split.validation):,} validation pictures, reloaded from disk",
            ),
            ("accuracy from pixels", f"{parity.accuracy:.4f} of those"),
            ("against backbone and head", f"{parity.max_difference:.2g} in probability"),
            ("against stored features", f"{parity.max_stored_difference:.2g} in probability, {flipped}"),
        ],
    )
