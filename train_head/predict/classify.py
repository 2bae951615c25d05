"""Command line for using an exported model: nothing else is needed, no store, run or weights."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from base.command_line import CommandFailed
from base.errors import HeadstartError, UsageError
from base.replace import recover_target
from base.terminal import Console, ProgressBar
from extract.decode import DECODE_POLICY, Pixels, UndecodableImageError, decode_image, read_picture
from extract.images.scan import EXTENSIONS, describe_unreadable, explain_extension
from extract.images.walk import walk_files
from train_head.config import PredictConfig
from train_head.export.card import MODEL_FILE


def predict(config: PredictConfig, console: Console) -> Mapping[str, Any]:
    """Classify pictures with an exported model."""
    from extract.pixels import resize_pixels
    from train_head.export.model import ExportedModel
    from train_head.export.write import describe_target
    from train_head.solvers.head import expand_probabilities

    paths, skipped = list_pictures(config.files)
    if config.model.name == MODEL_FILE:
        # An interrupted export may have left the model beside its folder.
        recover_target(describe_target(config.model.parent))
    model = ExportedModel(config.model)
    classes = model.card.classes
    if model.card.decode_policy != DECODE_POLICY:
        console.warn(
            f"{config.model} was made for pictures decoded by {model.card.decode_policy!r}; they are decoded by "
            f"{DECODE_POLICY!r} here, which may change probabilities. Train and export it again"
        )
    failed: list[dict[str, str]] = []
    done: list[Path] = []
    predictions: list[dict[str, Any]] = []
    with console.progress("predict", len(paths), "pictures") as progress:
        # Resized one by one, a phone's photographs need no gigabytes, and those of different sizes go together.
        images = (
            resize_pixels(pixels, model.card.image_size)
            for pixels in _read_pictures(paths, config.max_pixels, done, failed, progress)
        )
        for number, outputs in enumerate(model.predict(images, config.batch_size)):
            probabilities = expand_probabilities(outputs[None])[0]
            best = int(probabilities.argmax())
            probability = float(probabilities[best])
            predictions.append({"image": str(done[number]), "label": classes[best], "probability": probability})
            progress.advance(1)
    console.show_table(
        f"{config.model}: {' or '.join(classes)}",
        [(p["image"], p["label"], f"{p['probability']:.4f}") for p in predictions] or [("no picture",)],
    )
    if unreadable := describe_unreadable((file["image"], file["reason"]) for file in skipped):
        console.warn(unreadable)
    result: dict[str, Any] = {"predictions": predictions, "failed": failed, "skipped": skipped}
    accuracy = score_by_folder(predictions, classes)
    if accuracy is not None:
        console.say(f"accuracy by the folders' names: {accuracy:.4f} of {len(predictions):,}")
        result["accuracy"] = accuracy
    if failed:
        console.show_table("pictures that could not be used", [(f["image"], f["reason"]) for f in failed])
        raise CommandFailed(result)
    return result


def list_pictures(files: list[Path]) -> tuple[list[Path], list[dict[str, str]]]:
    """List the given files, and the pictures in the given folders.

    Returns:
        Files as they were given, and the pictures of folders by path; and the files of folders that were skipped.

    Raises:
        UsageError: a path does not exist.
        HeadstartError: there is no picture.
    """
    paths: list[Path] = []
    skipped: list[dict[str, str]] = []
    for file in files:
        try:
            file.stat()
        except OSError as error:
            got = "nothing there" if isinstance(error, FileNotFoundError) else error.strerror or str(error)
            raise UsageError(file, "a picture or a folder", got, "Check the path") from error
        if not file.is_dir():
            paths.append(file)
            continue
        for inside, problem in sorted(walk_files(file, ".")):
            path = file / inside
            if not problem and _is_special(path):
                problem = "not a regular file"
            if problem or path.suffix.lower() not in EXTENSIONS:
                skipped.append({"image": str(path), "reason": problem or explain_extension(inside)})
            else:
                paths.append(path)
    if not paths:
        shown = f"none ({skipped[0]['image']}: {skipped[0]['reason']})" if skipped else "none"
        raise HeadstartError(", ".join(map(str, files)), "pictures", shown, "Name a picture or a folder of them")
    return paths, skipped


def _is_special(path: Path) -> bool:
    """Return whether a path is no regular file, but a pipe or a device; False where it cannot be reached."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def score_by_folder(predictions: list[dict[str, Any]], classes: list[str]) -> float | None:
    """Returns the share of pictures whose label is their folder's name, where every folder is a class."""
    truths = [
        next((part for part in reversed(Path(p["image"]).parent.parts) if part in classes), None) for p in predictions
    ]
    if not truths or None in truths:
        return None
    num_right = sum(bool(p["label"] == truth) for p, truth in zip(predictions, truths, strict=True))
    return num_right / len(truths)


def _read_pictures(
    paths: list[Path], max_pixels: int, done: list[Path], failed: list[dict[str, str]], progress: ProgressBar
) -> Iterator[Pixels]:
    for path in paths:
        try:
            pixels = decode_image(read_picture(path, max_pixels), max_pixels)
        except UndecodableImageError as error:
            failed.append({"image": str(path), "reason": str(error)})
            progress.advance(1)
        else:
            done.append(path)
            yield pixels
