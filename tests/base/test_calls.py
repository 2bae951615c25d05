"""Messages of the Python API: options as keywords, and commands as calls."""

from __future__ import annotations

import os

import pytest

from base.calls import format_call, format_keywords, translate_options
from base.options import list_options
from extract.config import ExtractConfig
from train_head.config import TrainConfig

pytestmark = pytest.mark.unit
OPTIONS = {option.flag: option for options in (TrainConfig, ExtractConfig) for option in list_options(options)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("--pool", "pool"),
        ("--new-store", "new_store"),
        ("--weights auto", 'weights="auto"'),
        ("--engine openvino --precision int8", 'engine="openvino", precision="int8"'),
        (
            "Give another --store, or --new-store, which keeps it",
            "Give another store, or new_store=True, which keeps it",
        ),
        ("Give its folder with --images", "Give its folder with images"),
        ("Give another `--store`", "Give another `store`"),
        ("extract with --weights FILE --new-store", "extract with weights=FILE, new_store=True"),
        ("Give `--images FOLDER`", "Give `images=FOLDER`"),
        ("Give --precision bfloat16 or float32", 'Give precision="bfloat16" or float32'),
        ("or --sample-bits 16, with which", "or sample_bits=16, with which"),
        ("Give --classes 'a b,c' to leave out", 'Give classes="a b,c" to leave out'),
        ("preset x: --cut mixed7 --units 0", 'preset x: cut="mixed7", units=0'),
        ("Run `python -m features pack --store x --read-data`", "Run `python -m features pack --store x --read-data`"),
        ("Run pip with --force-reinstall", "Run pip with --force-reinstall"),
        ("an em -- dash, a--store and /a/--store", "an em -- dash, a--store and /a/--store"),
    ],
)
def test_translate_options_makes_keywords_of_known_options(text: str, expected: str) -> None:
    assert translate_options(text, OPTIONS.values()) == expected


def test_format_call_is_a_call_that_has_the_same_arguments() -> None:
    pairs = [
        ("--images", "my photos"),
        ("--store", "a\\b"),
        ("--new-store", ""),
        ("--image-size", "299"),
        ("--cut", "x"),
    ]
    call = format_call("extract", pairs)
    hs = type("Module", (), {"extract": staticmethod(lambda *values, **names: (values, names))})
    values, names = eval(call, {"hs": hs, "os": os})  # noqa: S307
    assert values == ("my photos", "a\\b")
    assert names == {"new_store": True, "image_size": 299, "cut": "x"}


def test_format_call_without_a_function_is_empty() -> None:
    assert format_call("features check", [("", "store")]) == ""


def test_format_keywords_quotes_text_only() -> None:
    assert format_keywords({"dropout": 0.5, "class_weight": "balanced"}) == 'dropout=0.5, class_weight="balanced"'
