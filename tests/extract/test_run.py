"""Stage one as a whole: the features that come out, and what is computed again and what is not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from base.errors import FingerprintMismatchError, StoreMissingError
from base.lock import LOCK_NAME
from base.terminal import Console, ConsoleOptions
from extract.backbone import cut_backbone, hash_weights, name_layers
from extract.config import ExtractConfig
from extract.images.scan import scan_images
from extract.plan import KnownStore, hash_path, plan_images
from extract.run import ExtractResult, extract_features
from features.catalog.catalog import CATALOG_NAME, Catalog
from features.schema import Features, ImageStatus
from features.store import Example, FeatureStore
from tests.pictures import draw_picture, encode, fill_folder

if TYPE_CHECKING:
    import keras

ROOT = Path(__file__).parents[2]


def extract(images: Path, store: Path, **options: Any) -> ExtractResult:
    """Extracts up to `mixed0`, which costs a tenth of `mixed7`."""
    defaults: dict[str, Any] = {"weights": "random", "image_size": 75, "cut": "mixed0", "batch_size": 8, "max_bad": 1.0}
    config = ExtractConfig(images, store, **(defaults | options))
    return extract_features(config, Console(ConsoleOptions(quiet=True)))


def find_examples(store: FeatureStore) -> dict[str, Example]:
    return {example.path: example for example in store.examples}


def read_by_path(store: FeatureStore, paths: Iterable[str]) -> Features:
    examples = find_examples(store)
    return store.read([examples[path] for path in paths])


def list_files(store: Path) -> dict[str, bytes]:
    """Everything but the lock, in which the last writer's name may stay."""
    files = (path for path in store.rglob("*") if path.is_file() and path.name != LOCK_NAME)
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of 16 pictures in two splits, and the store made from it; for copying, never changed."""
    folder = tmp_path_factory.mktemp("base")
    fill_folder(folder / "pictures", {"train/cats": 6, "train/dogs": 6})
    fill_folder(folder / "pictures", {"validation/cats": 2, "validation/dogs": 2}, start=50)
    extract(folder / "pictures", folder / "store")
    return folder / "pictures", folder / "store"


@pytest.fixture
def own(base: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """A copy of `base` of the test's own."""
    return shutil.copytree(base[0], tmp_path / "pictures"), shutil.copytree(base[1], tmp_path / "store")


# What the features are.


def test_extract_features_equal_a_plain_keras_computation_for_every_picture(
    pictures: Path, store: Path, backbone: keras.Model
) -> None:
    import keras

    found = FeatureStore(store)
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    raw = []
    for path in paths:
        with Image.open(pictures / path) as image:
            raw.append(np.asarray(image.convert("RGB"), np.float32))
    resized = keras.layers.Resizing(75, 75, interpolation="bilinear")(np.stack(raw))
    mixed7 = next(layer for layer, name in name_layers(backbone).items() if name == "mixed7")
    expected = keras.Model(backbone.inputs, mixed7.output).predict(resized / 127.5 - 1, verbose=0)

    features = read_by_path(found, paths)

    assert len(paths) == 36
    assert sorted(find_examples(found)) == paths
    assert features.shape == (36, 3, 3, 768)
    assert features.dtype == np.float16
    np.testing.assert_allclose(features.astype(np.float32), expected, rtol=2**-10, atol=1e-4 * float(expected.std()))
    distances = np.abs(expected[:, None] - expected[None]).max(axis=(2, 3, 4)) + np.eye(36) * 1e9
    assert distances.min() > 0.01, "no two pictures have the same features"


def test_extract_labels_and_splits_are_the_folders(pictures: Path, store: Path) -> None:
    for example in FeatureStore(store).examples:
        split, label, _ = example.path.split("/")
        assert (example.split, example.label) == (split, label)


def test_extract_fingerprint_and_origin_say_how_the_features_were_made(store: Path, backbone: keras.Model) -> None:
    found = FeatureStore(store)
    assert (found.fingerprint.backbone, found.fingerprint.cut, found.fingerprint.image_size) == (
        "InceptionV3",
        "mixed7",
        75,
    )
    assert found.fingerprint.weights_sha256 == hash_weights(cut_backbone(backbone, "mixed7"))
    assert (found.fingerprint.resize, found.fingerprint.scale) == ("bilinear", "[-1, 1]")
    assert (found.origin.weights_name, found.feature_shape) == ("random", (3, 3, 768))
    assert set(found.origin.versions) == {"tensorflow", "keras", "pillow", "h5py", "numpy"}
    assert "unknown" not in found.origin.versions.values()


def test_extract_again_computes_nothing_and_changes_no_shard(pictures: Path, store: Path, quiet: Console) -> None:
    before = FeatureStore(store)
    config = ExtractConfig(pictures, store, weights="random", image_size=75)

    result = extract_features(config, quiet)

    assert (result.images, result.computed, result.reused, result.failed) == (36, 0, 36, [])
    assert (result.removed, result.images_per_second) == (0, 0.0)
    assert result.fingerprint == before.fingerprint.digest
    assert result.weights == "random"
    after = FeatureStore(store)
    assert after.shards == before.shards
    assert after.examples == before.examples
    assert after.images_folder == str(pictures.resolve())


# A folder that changes.


ODD_NAME = os.fsdecode(b'train/dogs/\xe4 "new\nline".jpg')
"""Quotes, a line break, and a byte that is not UTF-8."""


@dataclass(frozen=True)
class Changed:
    """One run after many changes, and a second one after some were taken back."""

    result: ExtractResult
    before: FeatureStore
    after: FeatureStore
    mended_result: ExtractResult
    mended: FeatureStore


@pytest.fixture(scope="module")
def changed(base: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Changed:
    folder = tmp_path_factory.mktemp("changed")
    pictures = shutil.copytree(base[0], folder / "pictures")
    store = shutil.copytree(base[1], folder / "store")
    cats, dogs = pictures / "train/cats", pictures / "train/dogs"
    fill_folder(pictures, {"train/cats": 1, "train/dogs": 1}, start=900)
    (dogs / "900.jpg").rename(pictures / ODD_NAME)
    (cats / "000.jpg").rename(cats / "renamed.jpg")
    (cats / "001.jpg").rename(dogs / "was a cat.jpg")
    (dogs / "000.jpg").rename(pictures / "validation/dogs/held out.jpg")
    (dogs / "001.jpg").write_bytes(encode(draw_picture("dogs", 777), "JPEG"))
    gone = (dogs / "002.jpg").read_bytes()
    (dogs / "002.jpg").unlink()
    shutil.copyfile(cats / "002.jpg", cats / "copy of an old one.jpg")
    shutil.copyfile(cats / "900.jpg", cats / "copy of a new one.jpg")
    (cats / "a png.jpg").write_bytes(encode(draw_picture("cats", 901)))
    (cats / "corrupt.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)))
    (cats / "cut.jpg").write_bytes((cats / "003.jpg").read_bytes()[:2000])
    (cats / "empty.jpg").write_bytes(b"")
    (dogs / "page.jpg").write_bytes(b"<html>404</html>")
    (dogs / "notes.txt").write_text("not a picture")

    result = extract(pictures, store)
    after = FeatureStore(store)
    kept = shutil.copytree(store, folder / "kept")

    (cats / "corrupt.jpg").write_bytes(encode(draw_picture("cats", 902), "JPEG"))
    (dogs / "002.jpg").write_bytes(gone)
    mended_result = extract(pictures, store)
    after.path = kept
    return Changed(result, FeatureStore(base[1]), after, mended_result, FeatureStore(store))


def test_extract_changed_folder_computes_only_new_contents(changed: Changed) -> None:
    result = changed.result
    assert result.images == 24
    assert result.computed == 4, "two new ones, an edited one, a PNG named .jpg"
    assert len(result.failed) == 4
    assert (result.reused, result.duplicates) == (15, 1)
    assert changed.after.num_features == changed.before.num_features + 4


def test_extract_bad_pictures_are_each_listed_once_with_the_reason(changed: Changed) -> None:
    reasons = {failure["image"]: failure["reason"] for failure in changed.result.failed}
    assert len(reasons) == len(changed.result.failed)
    assert sorted(reasons) == [
        "train/cats/corrupt.jpg",
        "train/cats/cut.jpg",
        "train/cats/empty.jpg",
        "train/dogs/page.jpg",
    ]
    assert "damaged" in reasons["train/cats/corrupt.jpg"] or "cut off" in reasons["train/cats/corrupt.jpg"]
    assert "image file is truncated" in reasons["train/cats/cut.jpg"]
    assert reasons["train/cats/empty.jpg"] == "an empty file"
    assert reasons["train/dogs/page.jpg"] == "a web page or XML file"
    assert changed.result.skipped == [
        {"path": "train/dogs/notes.txt", "reason": "a file with an unknown extension (.txt)"}
    ]


def test_extract_bad_pictures_are_failed_in_the_catalog_and_no_examples(changed: Changed) -> None:
    failed = {image.path: image.reason for image in changed.after.images if image.status is ImageStatus.FAILED}
    assert failed == {failure["image"]: failure["reason"] for failure in changed.result.failed}
    assert not failed.keys() & find_examples(changed.after).keys()
    assert changed.after.num_pending == 0


def test_extract_unchanged_pictures_keep_their_rows_and_bits(changed: Changed) -> None:
    before, after = find_examples(changed.before), find_examples(changed.after)
    same = sorted(before.keys() & after.keys() - {"train/dogs/001.jpg"})
    assert len(same) == 11
    assert [after[path] for path in same] == [before[path] for path in same]
    np.testing.assert_array_equal(read_by_path(changed.after, same), read_by_path(changed.before, same))


@pytest.mark.parametrize(
    ("was", "now", "label", "split"),
    [
        ("train/cats/000.jpg", "train/cats/renamed.jpg", "cats", "train"),
        ("train/cats/001.jpg", "train/dogs/was a cat.jpg", "dogs", "train"),
        ("train/dogs/000.jpg", "validation/dogs/held out.jpg", "dogs", "validation"),
    ],
)
def test_extract_moved_picture_keeps_its_row_under_todays_label_and_split(
    changed: Changed, was: str, now: str, label: str, split: str
) -> None:
    old, new = find_examples(changed.before)[was], find_examples(changed.after)[now]
    assert (new.shard, new.row, new.content_hash) == (old.shard, old.row, old.content_hash)
    assert (new.label, new.split) == (label, split)
    assert was not in {image.path for image in changed.after.images}


def test_extract_edited_picture_gets_new_features_under_its_old_path(changed: Changed) -> None:
    path = "train/dogs/001.jpg"
    old, new = find_examples(changed.before)[path], find_examples(changed.after)[path]
    assert old.content_hash != new.content_hash
    assert not np.array_equal(read_by_path(changed.after, [path]), read_by_path(changed.before, [path]))


def test_extract_deleted_picture_leaves_the_examples(changed: Changed) -> None:
    assert "train/dogs/002.jpg" in find_examples(changed.before)
    assert "train/dogs/002.jpg" not in {image.path for image in changed.after.images}
    assert changed.result.removed == 4, "the deleted one and the old paths of the three that were moved"


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("train/cats/copy of an old one.jpg", "train/cats/002.jpg"),
        ("train/cats/copy of a new one.jpg", "train/cats/900.jpg"),
    ],
)
def test_extract_duplicate_is_stored_once_and_an_example_twice(changed: Changed, copy: str, original: str) -> None:
    examples = find_examples(changed.after)
    assert (examples[copy].shard, examples[copy].row) == (examples[original].shard, examples[original].row)


def test_extract_odd_name_is_read_found_and_known_again(changed: Changed) -> None:
    content_hash = find_examples(changed.after)[ODD_NAME].content_hash
    assert content_hash == hashlib.sha256(encode(draw_picture("dogs", 900), "JPEG", quality=95)).digest()
    assert find_examples(changed.mended)[ODD_NAME] == find_examples(changed.after)[ODD_NAME]
    assert ODD_NAME not in {failure["image"] for failure in changed.mended_result.failed}


def test_extract_png_named_jpg_is_decoded_by_its_content(changed: Changed) -> None:
    assert "train/cats/a png.jpg" in find_examples(changed.after)


def test_extract_mended_picture_is_tried_again_and_the_others_fail_again(changed: Changed) -> None:
    assert changed.mended_result.computed == 1
    assert sorted(failure["image"] for failure in changed.mended_result.failed) == [
        "train/cats/cut.jpg",
        "train/cats/empty.jpg",
        "train/dogs/page.jpg",
    ]
    assert "train/cats/corrupt.jpg" in find_examples(changed.mended)


def test_extract_picture_that_comes_back_finds_its_old_features(changed: Changed) -> None:
    old = find_examples(changed.before)["train/dogs/002.jpg"]
    new = find_examples(changed.mended)["train/dogs/002.jpg"]
    assert new == old


def test_extract_renamed_pictures_alone_compute_nothing(own: tuple[Path, Path]) -> None:
    pictures, store = own
    extract(pictures, store)
    before = FeatureStore(store)
    for path in sorted(pictures.rglob("*.jpg")):
        path.rename(path.with_name(f"new {path.name}"))

    result = extract(pictures, store)

    assert (result.computed, result.reused, result.removed) == (0, 16, 16)
    after = FeatureStore(store)
    assert after.shards == before.shards
    rows = {example.path.replace("new ", ""): (example.shard, example.row) for example in after.examples}
    assert rows == {example.path: (example.shard, example.row) for example in before.examples}


def test_extract_rehash_finds_an_edit_that_kept_size_and_time(own: tuple[Path, Path]) -> None:
    pictures, store = own
    path = pictures / "train/cats/000.jpg"
    status, data = path.stat(), path.read_bytes()
    assert data[6:11] == b"JFIF\0"
    path.write_bytes(data[:15] + b"\x07" + data[16:])  # another density: the same pixels, other content
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    known = KnownStore(FeatureStore(store).images, lambda _: True)
    assert plan_images(scan_images(pictures).images, known).to_read == [], "it trusts size and time"
    result = extract(pictures, store, rehash=True)

    assert (result.images, result.computed, result.reused) == (16, 1, 15)


def test_extract_strict_names_the_first_bad_picture_and_commits_what_was_computed(tmp_path: Path) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": 10, "dogs": 10})
    order = [image.path for image in sorted(scan_images(pictures).images, key=hash_path)]
    bad = order[9]
    (pictures / bad).write_bytes(b"")

    result = extract(pictures, store, strict=True, batch_size=4)

    assert result.failed == [{"image": bad, "reason": "an empty file"}]
    assert (result.computed, result.reused) == (11, 0)
    assert result.error.startswith(
        f"{pictures}: expected at most 0 bad pictures, got 1, the last of them {bad}: an empty file. "
    )
    found = FeatureStore(store)
    assert found.num_features == 11, "the good ones of three batches of four"
    assert sorted(find_examples(found)) == sorted(order[:9] + order[10:12])
    assert {image.path: image.reason for image in found.images if image.status is ImageStatus.FAILED} == {
        bad: "an empty file"
    }


def test_extract_folder_with_nothing_but_bad_pictures_lists_them_all(tmp_path: Path) -> None:
    pictures, store = tmp_path / "pictures", tmp_path / "store"
    fill_folder(pictures, {"cats": 2, "dogs": 2})
    paths = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    for path in paths:
        (pictures / path).write_bytes(b"")

    result = extract(pictures, store)

    assert (result.images, result.computed, result.reused) == (4, 0, 0)
    assert sorted(failure["image"] for failure in result.failed) == paths
    assert FeatureStore(store).examples == []


# What is refused.


@pytest.mark.parametrize(("field", "asked", "stored"), [("image_size", 76, 75), ("cut", "mixed1", "mixed0")])
def test_extract_other_settings_than_the_stores_are_refused_with_both_values(
    base: tuple[Path, Path], field: str, asked: object, stored: object
) -> None:
    pictures, store = base
    before = list_files(store)
    with pytest.raises(FingerprintMismatchError) as raised:
        extract(pictures, store, **{field: asked})
    assert (raised.value.expected, raised.value.got) == (f"{field} {stored}", f"{field} {asked}")
    assert list_files(store) == before


def test_extract_other_weights_than_the_stores_are_refused_with_both_hashes(
    base: tuple[Path, Path], legacy_file: Path, source: keras.Model, backbone: keras.Model
) -> None:
    pictures, store = base
    before = list_files(store)
    with pytest.raises(FingerprintMismatchError) as raised:
        extract(pictures, store, weights=str(legacy_file))
    asked, stored = (hash_weights(cut_backbone(model, "mixed0"))[:12] for model in (source, backbone))
    assert f"expected weights_sha256 {stored}…, got weights_sha256 {asked}…. " in str(raised.value)
    assert list_files(store) == before


# A run that is stopped.

NUM_MANY = 1500
"""More than the 1,024 that a shard holds, so that a run can be stopped between two commits."""


@dataclass(frozen=True)
class Run:
    """A run in a process of its own."""

    store: Path
    process: subprocess.Popen[str]

    def wait(self) -> tuple[int, str, str]:
        """Returns exit status, stdout and stderr once the process has ended."""
        with self.process:
            stdout, stderr = self.process.communicate(timeout=120)
        return self.process.returncode, stdout, stderr

    def count_committed(self) -> int:
        """Counts the rows that the catalog knows; 0 before there is a catalog."""
        if not (self.store / CATALOG_NAME).is_file():
            return 0
        try:
            catalog = Catalog(self.store / CATALOG_NAME, writable=False)
        except StoreMissingError:
            return 0  # It is just being made.
        try:
            return sum(shard.num_rows for shard in catalog.read_shards())
        finally:
            catalog.close()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(23)
    for number in range(NUM_MANY):
        path = folder / ("cats" if number % 2 else "dogs") / f"{number:04}.bmp"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return folder


def start(images: Path, store: Path) -> Run:
    command = [
        sys.executable,
        "-m",
        "extract",
        "--images",
        str(images),
        "--store",
        str(store),
        "--json",
        "-q",
    ]
    options = ["--weights", "random", "--image-size", "75", "--cut", "mixed0", "--batch-size", "16"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command + options, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)
    return Run(store, process)


@dataclass(frozen=True)
class Stopped:
    """Two runs that were stopped once their first shard was committed."""

    killed_status: int
    killed: FeatureStore
    """The store as the killed run left it."""
    resumed: Run
    """The run that goes on with it."""
    terminated: Run


@pytest.fixture(scope="module")
def stopped(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    runs = {number: start(many, folder / number.name) for number in (signal.SIGKILL, signal.SIGTERM)}
    running = dict(runs)
    while running:
        for number, run in list(running.items()):
            if run.process.poll() is not None or run.count_committed():
                if number is signal.SIGTERM:
                    time.sleep(0.3)  # for some batches of the next shard
                run.process.send_signal(number)
                del running[number]
        time.sleep(0.01)
    status, *_ = runs[signal.SIGKILL].wait()
    killed = FeatureStore(runs[signal.SIGKILL].store)
    return Stopped(status, killed, start(many, killed.path), runs[signal.SIGTERM])


@pytest.fixture(scope="module")
def uninterrupted(many: Path, stopped: Stopped, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """What both must come to; computed while the killed run is being gone on with."""
    store = tmp_path_factory.mktemp("uninterrupted") / "store"
    assert extract(many, store, batch_size=32).computed == NUM_MANY
    return FeatureStore(store)


def assert_equals(store: FeatureStore, expected: FeatureStore) -> None:
    paths = [example.path for example in expected.examples]
    assert [example.path for example in store.examples] == paths
    assert (store.num_pending, store.num_features) == (0, len(paths))
    np.testing.assert_array_equal(read_by_path(store, paths), read_by_path(expected, paths))


def test_extract_killed_half_way_and_run_again_computes_only_the_rest_to_the_same_bits(
    stopped: Stopped, uninterrupted: FeatureStore
) -> None:
    committed = [example.path for example in stopped.killed.examples]
    assert stopped.killed_status == -signal.SIGKILL
    assert 1024 <= stopped.killed.num_features < NUM_MANY
    np.testing.assert_array_equal(read_by_path(stopped.killed, committed), read_by_path(uninterrupted, committed))

    exit_status, stdout, stderr = stopped.resumed.wait()

    assert (exit_status, stderr) == (0, "")
    result = json.loads(stdout)
    assert result["computed"] == NUM_MANY - stopped.killed.num_features
    assert result["reused"] == stopped.killed.num_features
    assert_equals(FeatureStore(stopped.resumed.store), uninterrupted)


def test_extract_terminated_half_way_commits_what_is_computed_and_says_how_to_go_on(
    stopped: Stopped, uninterrupted: FeatureStore
) -> None:
    exit_status, stdout, stderr = stopped.terminated.wait()
    assert exit_status == 128 + signal.SIGTERM
    left = FeatureStore(stopped.terminated.store)
    done = [example.path for example in left.examples]
    assert f"{len(done):,} of {NUM_MANY:,} pictures are extracted, and kept" in stderr
    assert json.loads(stdout) == {"error": "interrupted"}
    assert 1024 <= left.num_features < NUM_MANY
    # It may have come between a batch's features and its pictures, which are read once more, and not computed.
    assert 0 <= left.num_features - len(done) <= 32
    assert left.num_pending == NUM_MANY - len(done)
    np.testing.assert_array_equal(read_by_path(left, done), read_by_path(uninterrupted, done))
