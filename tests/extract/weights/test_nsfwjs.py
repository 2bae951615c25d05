"""npm package `nsfwjs`: its tensors."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from extract.weights.nsfwjs import PACKAGE, read_layers
from tests.errors import raises
from tests.extract.weight_files import Tensor, draw_tensors, write_package

pytestmark = pytest.mark.unit

SMALL = [(3, 3, 4, 8), (1, 1, 8, 16)] * 47


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return draw_tensors(SMALL)


@pytest.fixture(scope="module")
def package(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("package") / PACKAGE.file, tensors)


def test_read_layers_alternates_convolutions_and_normalisations_by_number(package: Path) -> None:
    names = [name for name, _ in read_layers(package)]
    assert names[:4] == ["conv2d_1", "batch_normalization_1", "conv2d_2", "batch_normalization_2"]
    assert names == [f"{family}_{number}" for number in range(1, 95) for family in ("conv2d", "batch_normalization")]


def test_read_layers_values_are_quantised_times_scale_plus_minimum(package: Path, tensors: dict[str, Tensor]) -> None:
    for name, arrays in read_layers(package):
        parts = ["kernel"] if name.startswith("conv2d") else ["beta", "moving_mean", "moving_variance"]
        assert len(arrays) == len(parts)
        for part, array in zip(parts, arrays, strict=True):
            tensor = tensors[f"{name}/{part}"]
            expected = tensor.quantised * np.float32(tensor.scale) + np.float32(tensor.minimum)
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, expected, err_msg=f"{name}/{part}")


def test_read_layers_of_known_bytes_returns_known_numbers(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    known = Tensor(np.array([0, 1, 128, 255], np.uint8), "-1.5", ".25")
    spread = Tensor(np.array([0, 255, 2], np.uint8), ".5", "1e-3")
    path = write_package(
        tmp_path / PACKAGE.file,
        tensors | {"batch_normalization_2/beta": known, "batch_normalization_1/moving_mean": spread},
    )

    layers = dict(read_layers(path))

    assert layers["batch_normalization_2"][0].tolist() == [-1.5, -1.25, 30.5, 62.25]
    np.testing.assert_allclose(layers["batch_normalization_1"][1], [0.5, 0.755, 0.502], rtol=1e-6)


@pytest.mark.parametrize("drop_bytes", [1, 500])
def test_read_layers_with_less_data_than_declared_is_refused(
    tensors: dict[str, Tensor], tmp_path: Path, drop_bytes: int
) -> None:
    path = write_package(tmp_path / PACKAGE.file, tensors, drop_bytes=drop_bytes)
    with raises(HeadstartError, where=path):
        read_layers(path)


def test_read_layers_with_more_data_than_declared_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    # A tensor with another dtype is not read, so its bytes are left over.
    path = tmp_path / PACKAGE.file
    write_package(path, tensors | {"odd": Tensor(np.zeros(10, np.uint8), "none")})
    with raises(HeadstartError, where=path):
        read_layers(path)


def test_read_layers_without_a_tensor_is_refused_with_its_name(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    rest = {name: tensor for name, tensor in tensors.items() if name != "conv2d_50/kernel"}
    path = write_package(tmp_path / PACKAGE.file, rest)
    with raises(HeadstartError, where=path) as caught:
        read_layers(path)
    assert "conv2d_50/kernel" in caught.value.got


def test_read_layers_of_a_file_that_is_not_a_gzipped_tar_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / PACKAGE.file
    path.write_bytes(b"<html>not a package</html>")
    with raises(HeadstartError, where=path):
        read_layers(path)
    assert path.read_bytes() == b"<html>not a package</html>"


def test_read_layers_of_a_truncated_package_is_refused(package: Path, tmp_path: Path) -> None:
    path = tmp_path / PACKAGE.file
    path.write_bytes(package.read_bytes()[:-2000])
    with raises(HeadstartError, where=path):
        read_layers(path)


def test_read_layers_of_another_package_is_refused_with_the_missing_file(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as other:
        other.add(tmp_path / "package.json", "package/package.json")
    with raises(HeadstartError, where=tmp_path / "other.tgz") as caught:
        read_layers(tmp_path / "other.tgz")
    assert "model.min.js" in caught.value.got
