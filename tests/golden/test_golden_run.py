"""Runs of every version there was can be expanded to all inputs, or are refused with what to do.

`v1-run` was made by version 1 with `--solver reduced --rank 10` on 17 training and 7 validation pictures. Such runs
keep nothing but a digest of their reduction: they need the factors in the store's derived/.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from base.errors import HeadstartError
from base.terminal import Console
from features.packed.write import pack_store
from features.shards.compression import Compression
from features.store import FeatureStore
from features.writer import FeatureWriter
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
    return Path(shutil.copytree(GOLDEN, tmp_path / "golden"))


def test_golden_run_is_expanded_to_all_inputs_and_gives_its_own_predictions(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    assert not (run.folder / REDUCTION_FILE).exists()
    validation = split_examples(store.examples, 0.2).validation
    head = expand_head(run, store, validation, quiet)
    assert head.hidden_kernel.shape == (48, 6)
    inputs = store.read(validation).reshape(7, -1).astype(np.float64)
    logits = np.maximum(inputs @ head.hidden_kernel + head.hidden_bias, 0) @ head.output_kernel + head.output_bias
    found = {example.path: 1 / (1 + np.exp(-logit)) for example, logit in zip(validation, logits[:, 0], strict=True)}
    assert found == pytest.approx({p.path: p.probabilities["dogs"] for p in run.read_predictions()}, abs=1e-5)


def test_golden_run_is_expanded_after_pictures_were_removed_and_relabelled(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    validation = split_examples(store.examples, 0.2).validation
    expected = expand_head(run, store, validation, quiet)
    kept = [image._replace(label="owls") for image in store.images[5:]]
    with FeatureWriter(store.path, store.fingerprint, store.origin) as writer:
        writer.update_images(kept, [image.path for image in store.images[:5]])
    found = expand_head(run, FeatureStore(store.path), validation, quiet)
    np.testing.assert_array_equal(found.hidden_kernel, expected.hidden_kernel)


def test_golden_run_without_its_factors_is_refused_with_what_to_do(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    validation = split_examples(store.examples, 0.2).validation
    shutil.rmtree(store.derived_folder)
    with pytest.raises(HeadstartError) as caught:
        expand_head(run, store, validation, quiet)
    assert caught.value.where == run.folder
    assert "Train again" in str(caught.value)


def test_golden_run_on_a_packed_copy_takes_the_factors_beside_it(folder: Path, quiet: Console) -> None:
    run, store = Run(folder / "run"), FeatureStore(folder / "store")
    pack_store(store, folder / "packed.h5", Compression.GZIP, lambda _: None)
    packed = FeatureStore(folder / "packed.h5")
    shutil.copytree(store.derived_folder, packed.derived_folder)
    validation = split_examples(packed.examples, 0.2).validation
    assert expand_head(run, packed, validation, quiet).hidden_kernel.shape == (48, 6)


def test_golden_run_is_reported_and_after_a_rewrite_still_expanded(folder: Path, quiet: Console) -> None:
    sources = load_sources(ReportConfig(folder / "run", store=str(folder / "store")))
    assert write_report(sources, quiet) == folder / "run" / "report.html"
    with rewrite_run(sources.run):
        pass
    run = Run(folder / "run")
    assert run.record.run_version == 2
    run.check_files()
    head = expand_head(run, sources.store, run.find_split(sources.store).validation, quiet)
    np.testing.assert_array_equal(
        head.hidden_kernel, expand_head(sources.run, sources.store, sources.split.validation, quiet).hidden_kernel
    )
