"""Heads of runs of version 1 can be expanded to all inputs.

`v1-run` was written by version 1 with `--solver reduced --rank 10` on 17 training and 7 validation pictures. Runs of
this version contain only a digest of their reduction, so they need the factors in derived/ of the store.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from base.terminal import Console
from features.store import FeatureStore
from features.store_writer import FeatureWriter
from tests.errors import raises
from tests.features.stores import pack
from train_head.config import ReportConfig
from train_head.data.split import split_examples
from train_head.report.page import write_report
from train_head.report.sources import load_sources
from train_head.runs.expand import expand_head
from train_head.runs.read import Run
from train_head.runs.record import REDUCTION_FILE
from train_head.runs.write import rewrite_run

GOLDEN = Path(__file__).parent / "v1-run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy of the golden run and its store."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def test_golden_run_expanded_head_reproduces_the_predictions(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    assert not (run.folder / REDUCTION_FILE).exists()
    validation = split_examples(store.examples, 0.2).validation
    head = expand_head(run, store, validation, quiet)
    assert head.input_kernel.shape == (48, 6)
    inputs = store.read(validation).reshape(7, -1).astype(np.float64)
    logits = np.maximum(inputs @ head.input_kernel + head.input_bias, 0) @ head.output_kernel + head.output_bias
    found = {example.path: 1 / (1 + np.exp(-logit)) for example, logit in zip(validation, logits[:, 0], strict=True)}
    assert found == pytest.approx({p.path: p.probabilities["dogs"] for p in run.read_predictions()}, abs=1e-5)


def test_golden_run_expanded_head_does_not_depend_on_later_changes_of_the_store(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    validation = split_examples(store.examples, 0.2).validation
    expected = expand_head(run, store, validation, quiet)
    kept = [image._replace(label="owls") for image in store.images[5:]]
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images(kept, [image.path for image in store.images[:5]])
    found = expand_head(run, FeatureStore(store.path), validation, quiet)
    np.testing.assert_array_equal(found.input_kernel, expected.input_kernel)


def test_golden_run_without_factors_is_an_error(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    validation = split_examples(store.examples, 0.2).validation
    shutil.rmtree(store.derived_folder)
    with raises(HeadstartError, where=run.folder):
        expand_head(run, store, validation, quiet)


def test_golden_run_packed_store_uses_the_factors_beside_the_file(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    packed = pack(store, folder / "packed.h5")
    shutil.copytree(store.derived_folder, packed.derived_folder)
    validation = split_examples(packed.examples, 0.2).validation
    assert expand_head(run, packed, validation, quiet).input_kernel.shape == (48, 6)


def test_golden_run_rewritten_by_a_report_has_the_same_expanded_head(folder: Path, quiet: Console) -> None:
    sources = load_sources(ReportConfig(folder / "run", store=str(folder / "store")))
    assert write_report(sources, quiet) == folder / "run" / "report.html"
    with rewrite_run(sources.run):
        pass
    run = Run(folder / "run")
    assert run.record.run_version == 3
    run.check_files()
    head = expand_head(run, sources.store, run.find_split(sources.store).validation, quiet)
    np.testing.assert_array_equal(
        head.input_kernel, expand_head(sources.run, sources.store, sources.split.validation, quiet).input_kernel
    )
