"""Small synthetic examples, stores and models, with known answers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extract.backbone import build_backbone, cut_backbone
from extract.decoding.policy import DecodePolicy
from features.catalog.tables import ImageRow
from features.options import Pool
from features.schema import FeatureKey, Features, FeatureStatus, Fingerprint, ImageStatus, Origin
from features.store import Example, FeatureStore
from features.store_writer import FeatureWriter
from train_head.config import SolverName
from train_head.evaluation.mahalanobis import ClassModel, fit_classes
from train_head.export.distance import build_distance, list_arrays
from train_head.export.load import compile_outputs, load_export
from train_head.export.stitch import save_model, stitch
from train_head.runs.card import ModelCard
from train_head.solvers.head import HeadWeights, restore_head

SHAPE = (2, 2, 3)
CLASSES = ["cats", "dogs", "owls"]
OPTIONS: dict[str, Any] = {"solver": SolverName.FULL, "epochs": 12, "units": 16, "learning_rate": 1e-3, "seed": 1}
"""Options of the shared run."""
SMALL_SIZE, SMALL_CUT = 75, "activation"
TINY_SIZE = 16
TINY_SHAPE = (4, 4, 3)
FINGERPRINT = Fingerprint(
    backbone="InceptionV3",
    weights_sha256="0" * 64,
    cut="mixed0",
    image_size=75,
    decode_policy=str(DecodePolicy()),
    resize="bilinear",
    scale="[-1, 1]",
    precision="float32",
    engine="tensorflow",
    views="1",
)


def hash_text(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def place_hash(place: float) -> bytes:
    """Return the content hash at a position in [0, 1)."""
    return int(place * 2**64).to_bytes(8, "big") + bytes(24)


def make_example(path: str, content: bytes | None = None, shard: int = 1, row: int = 0) -> Example:
    """Make an example with the split and label of its path, `train/cats/1.jpg` or `cats/1.jpg`."""
    *splits, label, _ = path.split("/")
    return Example(
        path, label, splits[0] if splits else "", hash_text(path) if content is None else content, shard, row
    )


def list_paths(counts: dict[str, int]) -> list[str]:
    """List paths by folder: {"train/cats": 2} gives train/cats/00.jpg and train/cats/01.jpg."""
    return [f"{folder}/{number:02}.jpg" for folder, count in counts.items() for number in range(count)]


def draw_features(paths: Sequence[str], shape: tuple[int, ...] = SHAPE) -> Features:
    """Draw features from their paths: noise below 1/2, plus 1 in the channel of the class."""
    features = np.empty((len(paths), *shape), np.float16)
    for feature, path in zip(features, paths, strict=True):
        feature[:] = np.random.default_rng(list(hash_text(path)[:8])).random(shape) / 2
        feature[..., CLASSES.index(path.split("/")[-2])] += 1
    return features


def make_store(
    folder: Path,
    paths: Sequence[str],
    *,
    features: NDArray[Any] | None = None,
    contents: Sequence[bytes] | None = None,
    rows_per_shard: int = 8,
    fingerprint: Fingerprint = FINGERPRINT,
    weights_name: str = "random",
    weights_file: str = "",
    images_folder: str = "",
) -> FeatureStore:
    """Make a store with a feature for each path; equal contents share the first feature."""
    made = draw_features(paths) if features is None else features.astype(np.float16)
    hashes = [hash_text(path) for path in paths] if contents is None else list(contents)
    origin = Origin(tuple(made.shape[1:]), weights_name, weights_file, "")
    examples = [make_example(path, content) for path, content in zip(paths, hashes, strict=True)]
    with FeatureWriter(folder, fingerprint, origin) as writer:
        for start in range(0, len(paths), rows_per_shard):
            for number in range(start, min(start + rows_per_shard, len(paths))):
                key = FeatureKey(hashes[number], 0)
                if not writer.holds(key):
                    writer.add_features([key], made[number : number + 1], [FeatureStatus.OK])
            writer.commit()
        writer.update_images(
            [ImageRow(e.path, e.label, e.split, 1, 1, e.content_hash, ImageStatus.DONE) for e in examples], []
        )
        writer.catalog.write_meta("images_folder", images_folder)
    return FeatureStore(folder)


def draw_view(path: str, view: int) -> Features:
    """Draw a view of a path's feature, with other noise in each view; `make_store` stores view 0."""
    feature: Features = draw_features([f"{view}/{path}" if view else path])[0]
    return feature


def add_views(
    store: FeatureStore,
    views: Mapping[str, Sequence[int]],
    *,
    draw: Callable[[str, int], NDArray[Any]] = draw_view,
    bad: Sequence[tuple[str, int]] = (),
) -> FeatureStore:
    """Add views of pictures to a store in the order of a later extraction: view by view, with three features per shard.

    Args:
        store: the store.
        views: numbers of the views, by path.
        draw: returns the feature of a path and a view.
        bad: paths and views whose features are marked as not finite.
    """
    hash_of = {example.path: example.content_hash for example in store.examples}
    added = sorted((view, path) for path, numbers in views.items() for view in numbers)
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        for number, (view, path) in enumerate(added, 1):
            status = FeatureStatus.NONFINITE if (path, view) in bad else FeatureStatus.OK
            feature = draw(path, view).astype(np.float16)
            writer.add_features([FeatureKey(hash_of[path], view)], feature[None], [status])
            if number % 3 == 0:
                writer.commit()
        writer.commit()
    return FeatureStore(store.path)


def add_picture(path: Path) -> None:
    """Add a picture of a dog to a store, as another extraction does."""
    name = "train/dogs/new.jpg"
    key = FeatureKey(hash_text(name), 0)
    with FeatureWriter(path, FINGERPRINT, Origin(SHAPE, "random", "", "")) as writer:
        writer.add_features([key], draw_features([name]), [FeatureStatus.OK])
        writer.add_image(ImageRow(name, "dogs", "train", 1, 1, key.content_hash, ImageStatus.DONE))
        writer.commit()


def build_tiny_backbone() -> Any:
    """Build a backbone that averages 4 x 4 pixels: (n, 16, 16, 3) to (n, 4, 4, 3)."""
    import keras

    pixels = keras.Input((TINY_SIZE, TINY_SIZE, 3))
    return keras.Model(pixels, keras.layers.AveragePooling2D(4)(pixels), name="tiny")


def choose_tiny_weights(num_classes: int) -> HeadWeights:
    """Make a head on the tiny backbone that classifies red as cats, blue as dogs and green as owls."""
    channels = [0, 2, 1]
    kernel = np.zeros((*TINY_SHAPE, 3), np.float32)
    for unit, channel in enumerate(channels):
        kernel[:, :, channel, unit] = 1 / 16
    output = 4 * np.eye(3, dtype=np.float32)
    if num_classes == 2:
        output = np.array([[-4], [4], [0]], np.float32)
    return HeadWeights(kernel.reshape(-1, 3), np.ones(3, np.float32), output, np.zeros(output.shape[1], np.float32))


def build_tiny_head(num_classes: int) -> Any:
    return restore_head(choose_tiny_weights(num_classes), TINY_SHAPE, num_classes, 0.2)


@functools.cache
def build_small_backbone() -> Any:
    """Build InceptionV3 up to its first activation, pooled to (n, 32): means of each colour above and below grey."""
    backbone = cut_backbone(build_backbone(SMALL_SIZE, None), SMALL_CUT, Pool.AVG)
    (convolution,) = (layer for layer in backbone.layers if "conv2d" in layer.name)
    kernel = np.zeros((3, 3, 3, 32), np.float32)
    for channel in range(3):
        kernel[1, 1, channel, channel], kernel[1, 1, channel, channel + 3] = 1, -1
    convolution.set_weights([kernel])
    return backbone


def make_small_card(num_classes: int) -> ModelCard:
    classes = CLASSES[:num_classes]
    return ModelCard(classes, SMALL_SIZE, str(DecodePolicy()), SMALL_CUT, "none", FINGERPRINT.digest, val_accuracy=1.0)


def draw_classes(num_channels: int, num_classes: int = 2) -> ClassModel:
    """Fit classes to random features."""
    rng = np.random.default_rng(0)
    features = rng.gamma(1, size=(40 * num_classes, num_channels)).astype(np.float32)
    numbers = np.arange(len(features)) % num_classes
    return fit_classes(features + numbers[:, None], numbers)[0]


def draw_distance(backbone: Any, num_classes: int = 2) -> Any:
    """Build the distance to random classes from the outputs of a backbone."""
    shape = backbone.output_shape[1:]
    return build_distance(shape, list_arrays(draw_classes(shape[-1], num_classes)))


def choose_small_weights(num_classes: int) -> HeadWeights:
    """Make a head on the small backbone that classifies colours as that of `choose_tiny_weights` does."""
    tiny = choose_tiny_weights(num_classes)
    kernel = np.zeros((32, 3), np.float32)
    kernel[:3] = 16 * tiny.input_kernel[:3]
    kernel[3:6] = -kernel[:3]
    return replace(tiny, hidden_kernel=kernel)


def save_tiny_model(path: Path, num_classes: int) -> Path:
    """Write an exported model of the small backbone, whose head separates the classes by colour."""
    head = restore_head(choose_small_weights(num_classes), (32,), num_classes, 0.2)
    save_model(stitch(build_small_backbone(), head, SMALL_SIZE), make_small_card(num_classes), path)
    return path


def run_export(path: Path, images: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the (n, outputs) outputs of an exported model for pictures of any sizes."""
    run = compile_outputs(load_export(path)[1])
    return np.concatenate([run(np.asarray(image)[None]).probabilities for image in images])
