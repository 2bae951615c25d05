"""The command `serve` with a model that classifies colours once it has read a line, without TensorFlow."""

from __future__ import annotations

import sys
from unittest import mock

from base.terminal import Console
from extract.decoding.policy import DecodePolicy
from tests.train_head.serve.servers import compare_colours, make_model
from train_head.data.batches import Array
from train_head.export.outputs import Outputs
from train_head.serve.__main__ import main
from train_head.serve.app import Service
from train_head.serve.classify import Classifier
from train_head.serve.config import ServeConfig
from train_head.serve.uploads import Limits


def wait_and_run(pixels: Array) -> Outputs:
    sys.stdin.readline()
    return compare_colours(pixels)


def build_service(config: ServeConfig, console: Console) -> Service:
    return Service(Classifier(make_model(wait_and_run), DecodePolicy(), config, None), Limits(), console)


if __name__ == "__main__":
    with mock.patch("train_head.serve.run.build_service", build_service):
        main("python -m train_head.serve")
