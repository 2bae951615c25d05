"""Command line of the export: one Keras model, which appears only if it agrees with its parts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from features.command import CommandFailed, run_app
from features.console import Console, format_bytes, import_quietly
from features.durable import sync_folder
from features.errors import HeadstartError, UsageError
from features.store import FeatureStore
from train_head.config import ExportConfig
from train_head.run import Run, hash_views
from train_head.same_run import refuse_changed_store
from train_head.split import Split, split_examples

MODEL_FILE, LABELS_FILE = "model.keras", "labels.txt"
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
    split = split_examples(store.examples, float(run.record.config["validation_split"]))
    refuse_changed_store(run, store.fingerprint.digest, split, hash_views(store, split, run.num_views))
    return export_model(config, run, store, split, console)


def export_model(
    config: ExportConfig, run: Run, store: FeatureStore, split: Split, console: Console
) -> Mapping[str, Any]:
    """Builds, writes aside, reloads, compares, and only then renames into place.

    Raises:
        CommandFailed: the reloaded model disagrees with its parts; no file appears.
        HeadstartError: something that a user can mend.
    """
    import_quietly("keras")
    from extract.decode import DECODE_POLICY
    from extract.pixels import prepare_pixels
    from train_head.exported import ExportedModel, save_model
    from train_head.model_file import ModelCard
    from train_head.parity import TOLERANCE, Parts, check_parity, read_unchanged
    from train_head.rebuild import rebuild_parts
    from train_head.stitch import stitch

    fingerprint, classes = store.fingerprint, split.classes
    rebuilt = rebuild_parts(run, store, split, config.weights, console)
    model = stitch(rebuilt.backbone, rebuilt.head, fingerprint.image_size)
    card = ModelCard(
        classes=classes,
        image_size=fingerprint.image_size,
        decode_policy=DECODE_POLICY,
        cut=rebuilt.cut,
        weights=store.origin.weights_name,
        fingerprint=fingerprint.digest,
        val_accuracy=run.read_metrics()["val_accuracy"],
        unfreeze_from=run.unfreeze_from,
    )
    aside = config.out / ".partial"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        save_model(model, card, aside / MODEL_FILE)
        labels = "".join(label.replace("\n", "\\n") + "\n" for label in classes)
        (aside / LABELS_FILE).write_text(labels, encoding="utf-8", errors="surrogateescape")
        parts = Parts(
            partial(prepare_pixels, image_size=fingerprint.image_size),
            # Keras's own graph: the engine's folds batch normalisation, which the stored features compare with.
            rebuilt.backbone.predict_on_batch,
            rebuilt.head.predict_on_batch,
            rebuilt.run_stored,
        )
        folder = Path(config.images or store.images_folder)
        read = partial(read_unchanged, folder, max_pixels=config.max_pixels)
        with console.progress("check", len(split.validation), "pictures") as progress:
            parity = check_parity(
                ExportedModel(aside / MODEL_FILE), parts, store, read, split.validation, progress.advance
            )
        result = {"files": [], "parity": {"keras": parity.max_difference}, **asdict(parity)}
        if not parity.ok:
            console.warn(
                f"the exported model differs from backbone and head by {parity.max_difference:.2g} "
                f"({TOLERANCE:g} is allowed), and {parity.num_flipped} labels flipped ({parity.num_flips_allowed} are "
                f"allowed for features made in {fingerprint.precision}); no file was written"
            )
            raise CommandFailed(result)
        files = [config.out / MODEL_FILE, config.out / LABELS_FILE]
        for file in files:
            (aside / file.name).replace(file)
        sync_folder(config.out)
        if parity.num_flipped:
            console.warn(
                f"{parity.num_flipped:,} pictures have other labels than on the stored features, which were made in "
                f"{fingerprint.precision}; accuracy {card.val_accuracy:.4f} on those, {parity.accuracy:.4f} from pixels"
            )
    except OSError as error:
        raise HeadstartError(
            config.out, "room and permission for the model", str(error), "Make room, or give another --out"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    console.show_table(
        f"exported model in {config.out}",
        [
            *((file.name, format_bytes(file.stat().st_size)) for file in files),
            ("classes", ", ".join(classes)),
            ("checked on", f"{parity.num_pictures:,} validation pictures, reloaded from disk"),
            ("accuracy from pixels", f"{parity.accuracy:.4f}"),
            ("against backbone and head", f"{parity.max_difference:.2g} in probability"),
            (
                "against stored features",
                f"{parity.max_stored_difference:.2g} in probability, "
                + (f"{parity.num_flipped:,} other labels" if parity.num_flipped else "same labels"),
            ),
        ],
    )
    return {**result, "files": [str(file) for file in files]}


if __name__ == "__main__":
    run_app(export, ExportConfig, "python -m train_head.export")
