"""The npm package: its tensors, dequantised and in order, and how it is fetched."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from extract.weights.nsfwjs import PACKAGE_FILE, fetch_package, read_layers
from tests.extract.fake_npm import install_npm
from tests.extract.weight_files import Tensor, draw_tensors, write_package

SMALL = [(3, 3, 4, 8), (1, 1, 8, 16)] * 47


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return draw_tensors(SMALL)


@pytest.fixture(scope="module")
def package(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_package(tmp_path_factory.mktemp("package") / PACKAGE_FILE, tensors)


def test_read_layers_lists_convolutions_and_normalisations_in_turn_by_number(package: Path) -> None:
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


def test_read_layers_known_bytes_give_known_numbers(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    known = Tensor(np.array([0, 1, 128, 255], np.uint8), "-1.5", ".25")
    spread = Tensor(np.array([0, 255, 2], np.uint8), ".5", "1e-3")
    path = write_package(
        tmp_path / PACKAGE_FILE,
        tensors | {"batch_normalization_2/beta": known, "batch_normalization_1/moving_mean": spread},
    )

    layers = dict(read_layers(path))

    assert layers["batch_normalization_2"][0].tolist() == [-1.5, -1.25, 30.5, 62.25]
    np.testing.assert_allclose(layers["batch_normalization_1"][1], [0.5, 0.755, 0.502], rtol=1e-6)


@pytest.mark.parametrize("drop_bytes", [1, 500])
def test_read_layers_short_data_is_refused(tensors: dict[str, Tensor], tmp_path: Path, drop_bytes: int) -> None:
    path = write_package(tmp_path / PACKAGE_FILE, tensors, drop_bytes=drop_bytes)
    with pytest.raises(HeadstartError, match=r"expected the npm package nsfwjs@4\.4\.0 with an InceptionV3 in it"):
        read_layers(path)


def test_read_layers_more_data_than_declared_is_refused(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    # A tensor of another dtype is not among those that are read, so its bytes are left over.
    path = tmp_path / PACKAGE_FILE
    write_package(path, tensors | {"odd": Tensor(np.zeros(10, np.uint8), "none")})
    with pytest.raises(HeadstartError, match=r"bytes of weights where the manifest declares"):
        read_layers(path)


def test_read_layers_missing_tensor_is_refused_by_name(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    rest = {name: tensor for name, tensor in tensors.items() if name != "conv2d_50/kernel"}
    with pytest.raises(HeadstartError, match="conv2d_50/kernel"):
        read_layers(write_package(tmp_path / PACKAGE_FILE, rest))


def test_read_layers_file_that_is_no_gzipped_tar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / PACKAGE_FILE
    path.write_bytes(b"<html>not a package</html>")
    with pytest.raises(HeadstartError) as raised:
        read_layers(path)
    assert str(raised.value).startswith(f"{path}: expected the npm package nsfwjs@4.4.0")
    assert path.read_bytes() == b"<html>not a package</html>"


def test_read_layers_truncated_package_is_refused(package: Path, tmp_path: Path) -> None:
    path = tmp_path / PACKAGE_FILE
    path.write_bytes(package.read_bytes()[:-2000])
    with pytest.raises(HeadstartError, match="a file that it cannot be read from"):
        read_layers(path)


def test_read_layers_other_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as other:
        other.add(tmp_path / "package.json", "package/package.json")
    with pytest.raises(HeadstartError, match=r"model\.min\.js"):
        read_layers(tmp_path / "other.tgz")


def test_fetch_package_runs_npm_pack_for_the_pinned_version_and_keeps_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'echo "$@" > "{tmp_path}/arguments"; printf packed > "$5/{PACKAGE_FILE}"'
    install_npm(tmp_path / "bin", script, monkeypatch)

    path = fetch_package(tmp_path / "cache")

    assert path == tmp_path / "cache" / PACKAGE_FILE
    assert path.read_bytes() == b"packed"
    assert (tmp_path / "arguments").read_text().split()[:4] == [
        "pack",
        "--silent",
        "nsfwjs@4.4.0",
        "--pack-destination",
    ]
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [PACKAGE_FILE]


def test_fetch_package_that_is_there_needs_no_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / PACKAGE_FILE).write_bytes(b"kept")
    monkeypatch.setenv("PATH", "")
    assert fetch_package(tmp_path).read_bytes() == b"kept"


def test_fetch_package_without_npm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HeadstartError) as raised:
        fetch_package(tmp_path / "cache")
    assert str(raised.value) == (
        "nsfwjs@4.4.0: expected npm on the PATH, got none. Install Node.js, or give --weights FILE (WEIGHTS=FILE)."
    )


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo trying >&2; echo 'npm error ENOTFOUND' >&2; exit 3", "exit status 3: npm error ENOTFOUND"),
        ("echo 'only on stdout'; exit 1", "exit status 1: only on stdout"),
        ("exit 0", "exit status 0: no file"),
    ],
)
def test_fetch_package_failing_npm_gives_status_and_last_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    install_npm(tmp_path / "bin", script, monkeypatch)
    with pytest.raises(HeadstartError) as raised:
        fetch_package(tmp_path / "cache")
    assert f"expected the package from `npm pack`, got {told}. " in str(raised.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_fetch_package_interrupted_before_leaves_no_rest_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache/fetching").mkdir(parents=True)
    (tmp_path / "cache/fetching" / PACKAGE_FILE).write_bytes(b"half")
    install_npm(tmp_path / "bin", f'printf whole > "$5/{PACKAGE_FILE}"', monkeypatch)
    assert fetch_package(tmp_path / "cache").read_bytes() == b"whole"
