"""Export a run as one model in one or more formats; a format is written only if it agrees with the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from base.errors import HeadstartError, UsageError
from base.files import hash_file
from base.replace import recover_target, replace_folder
from base.target import check_target
from base.terminal import Console, format_count, import_quietly
from base.urls import locate_pictures
from extract.decoding.policy import DecodePolicy, find_policy
from features.store import FeatureStore
from train_head.data.split import order_by_class
from train_head.export.config import Dtype, ExportConfig, Format
from train_head.export.convert import convert_formats
from train_head.export.description import (
    DESCRIPTION_FILE,
    DIGEST_LENGTH,
    ModelDescription,
    encode_description,
    find_versions,
)
from train_head.export.earlier import encode_result, find_earlier_export
from train_head.export.factor import factor_head, read_reduced_kernel
from train_head.export.formats import FORMATS, parse_formats
from train_head.export.readme.write import ReadmeSources, format_readme
from train_head.export.result import ExportResult, build_format_error, build_parity_error
from train_head.export.target import PARITY_FILE, README_FILE, describe_target
from train_head.export.thresholds import check_threshold, choose_label_thresholds
from train_head.runs.card import LABELS_FILE, MODEL_FILE, ModelCard, format_labels
from train_head.runs.read import Run
from train_head.solvers.head import extract_weights, plan_outputs, restore_head

if TYPE_CHECKING:
    from train_head.export.parity import Parity
    from train_head.export.rebuild import ModelParts


def export_run(config: ExportConfig, console: Console) -> ExportResult:
    """Join a run's backbone and head into one model that takes raw pixels, check it, and write it in all formats.

    The Keras model is saved to a staging folder, loaded again, and checked on validation pictures. The other formats
    are converted from it, and each is compared with it in its own runtime. An earlier export of the same run with the
    same options is kept.

    Raises:
        UsageError: an unknown format, a missing package, an invalid threshold, a file in place of the output folder, or
            no folder of pictures.
        ParityError: the loaded model does not agree with its parts, and an earlier export is kept; or a format could
            not be converted or does not agree with the Keras model, and the other formats were written.
        HeadstartError: the run, its store, its pictures or the output folder cannot be used.
    """
    formats = parse_formats(config.formats, config.dtype)
    if config.out.exists() and not config.out.is_dir():
        raise UsageError(config.out, "a folder for the model", "a file", "Give another `out`")
    run = Run(config.run)
    check_threshold(run, config.threshold)
    target = describe_target(config.out)
    recover_target(target)
    check_target(target)
    if earlier := find_earlier_export(run, config, formats):
        console.info(f"{config.out} already contains this model; nothing to do")
        return earlier
    store = run.open_store(config.store)
    split = run.find_split(store)
    images = run.find_images(store, config.images)
    policy = _find_policy(store)
    if not images:
        got = f"no path in the packed store {store.path}"
        raise UsageError("--images", "the folder of the pictures", got, "Give `images`")
    if config.outlier_score and run.read_outliers() is None:
        advice = "Leave the option out; docs/how-to/outliers.md lists the runs without a detector"
        raise UsageError("--outlier-score", "a run with a detector of outliers", "none in the run", advice)
    if config.factored:
        read_reduced_kernel(run)
    with replace_folder(target) as replacement, TemporaryFile() as file:
        import_quietly("keras")
        import keras

        from train_head.export.load import compile_outputs
        from train_head.export.parity import check_parity
        from train_head.export.pictures import Pictures
        from train_head.export.rebuild import rebuild_parts

        size, ordered = store.fingerprint.image_size, order_by_class(split.validation)
        # The accuracy of int8 weights is compared on all validation pictures.
        is_int8 = any(FORMATS[each].choose_dtype(config.dtype) is Dtype.INT8 for each in formats)
        num_wanted = None if is_int8 else config.check
        pictures = Pictures(locate_pictures(images), ordered, size, file, num_wanted, config.max_pixels, policy)
        pictures.load(console)
        parts = rebuild_parts(run, store, split, config.weights, console)
        staging = replacement.staging
        with _catch_write_errors(config):
            description = _write_keras(config, run, store, parts, staging)
        staged = keras.saving.load_model(staging / MODEL_FILE, compile=False)
        parity = check_parity(compile_outputs(staged), parts, store, run.record.classes, pictures, console)
        result = ExportResult([], parity, len(split.validation))
        if not parity.ok:
            raise build_parity_error(config.out, result)
        digests = {example.content_hash.hex()[:DIGEST_LENGTH] for example in split.train}
        packages = [name for each in formats for name in (FORMATS[each].runtime, *FORMATS[each].converters)]
        description = replace(description, training=sorted(digests), versions=find_versions(packages))
        others = [each for each in formats if each is not Format.KERAS]
        with _catch_write_errors(config):
            (staging / DESCRIPTION_FILE).write_bytes(encode_description(description))
            checks, failed = convert_formats(others, config.dtype, staging, pictures, console) if others else ([], {})
            if Format.KERAS not in formats:
                (staging / MODEL_FILE).unlink()
            written = [each for each in formats if (staging / FORMATS[each].path).exists()]
            names = [name for each in written for name in FORMATS[each].names]
            paths = [config.out / name for name in (*names, LABELS_FILE)]
            result = replace(result, files=paths if written else [], checks=checks)
            if written:
                dtypes = {check.format: check.dtype for check in checks}
                formats_written = {each.value: dtypes.get(each, Dtype.FLOAT32).value for each in written}
                description = replace(description, formats=formats_written)
                _write_documents(ReadmeSources(run, store, description, result, staging, config))
                replacement.commit()
        if failed:
            raise build_format_error(failed, result)
    _warn_of_differences(parity, store, console)
    return result


def _warn_of_differences(parity: Parity, store: FeatureStore, console: Console) -> None:
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


def _find_policy(store: FeatureStore) -> DecodePolicy:
    """Return the decode policy of a store, which is also that of its exported models."""
    text = store.fingerprint.decode_policy
    policy = find_policy(text)
    if policy is None:
        expected, advice = "a decode policy of this version", "Export with the version that extracted the features"
        raise HeadstartError(store.path, expected, repr(text), advice)
    return policy


@contextmanager
def _catch_write_errors(config: ExportConfig) -> Iterator[None]:
    """Convert an OSError of the block, which writes the staged files, to an error that names the output folder."""
    try:
        yield
    except OSError as error:
        got, advice = error.strerror or str(error), "Free some space, check the permissions, or give another `out`"
        raise HeadstartError(config.out, "a writable folder with free space", got, advice) from error


def _write_keras(
    config: ExportConfig, run: Run, store: FeatureStore, parts: ModelParts, folder: Path
) -> ModelDescription:
    """Write model.keras and labels.txt, and return the description of the model."""
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
        head = parts.head
        if config.factored:
            weights, outputs = extract_weights(head), plan_outputs(len(card.classes), is_multi_label=run.is_multi_label)
            factored = factor_head(weights, read_reduced_kernel(run))
            head = restore_head(factored, parts.backbone.output_shape[1:], outputs, run.dropout)
        model = stitch(parts.backbone, head, card.image_size, distance)
        card = save_model(model, card, folder / MODEL_FILE, added)
    except ValueError as error:
        advice = "Train it again with `overwrite`"
        raise HeadstartError(run.folder, "valid metrics and classes", str(error), advice) from error
    (folder / LABELS_FILE).write_bytes(format_labels(card.classes))
    return ModelDescription(card, temperature=run.record.temperature, has_distance=config.outlier_score)


def _write_documents(sources: ReadmeSources) -> None:
    """Write parity.json, README.md and model.json for the staged formats."""
    folder, result = sources.folder, sources.result
    written = [Format(name) for name in sources.description.formats]
    (folder / PARITY_FILE).write_text(encode_result(sources.run, sources.config, written, result))
    (folder / README_FILE).write_bytes(format_readme(sources))
    (folder / DESCRIPTION_FILE).unlink()
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    description = replace(sources.description, files={name: hash_file(folder / name) for name in names})
    (folder / DESCRIPTION_FILE).write_bytes(encode_description(description))
