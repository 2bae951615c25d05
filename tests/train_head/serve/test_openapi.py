"""The OpenAPI description: every endpoint, and the keys of real answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.pictures import draw_picture, encode
from tests.train_head.serve.servers import Client
from train_head.serve.app import STATIC

DESCRIPTION = json.loads((STATIC / "openapi.json").read_bytes())
SCHEMAS = DESCRIPTION["components"]["schemas"]


def check_keys(found: dict[str, Any], name: str) -> None:
    """Check that an answer has all required keys of a schema, and no key that it does not list."""
    schema = SCHEMAS[name]
    assert set(schema["required"]) <= found.keys() <= schema["properties"].keys()


@pytest.mark.unit
def test_description_lists_every_endpoint_of_a_program() -> None:
    assert DESCRIPTION["openapi"] == "3.1.0"
    assert DESCRIPTION["paths"].keys() == {"/predict", "/model", "/health", "/thumbnails/{number}"}


@pytest.mark.unit
def test_every_reference_of_the_description_exists() -> None:
    def list_references(value: Any) -> list[str]:
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        found = [inside for each in values for inside in list_references(each)]
        return found + ([value["$ref"]] if isinstance(value, dict) and "$ref" in value else [])

    references = list_references(DESCRIPTION)
    assert references
    for reference in references:
        place = DESCRIPTION
        for name in reference.removeprefix("#/").split("/"):
            place = place[name]


def test_answers_have_the_described_keys(client: Client) -> None:
    check_keys(client.send("GET", "/model").json, "Model")
    answer = client.predict_form([("a.png", encode(draw_picture("cats", 1))), ("b.png", b"x")]).json
    check_keys(answer, "Predictions")
    check_keys(answer["predictions"][0], "Prediction")
    check_keys(client.send("GET", "/nothing").json, "Error")
    responses = DESCRIPTION["paths"]["/predict"]["post"]["responses"]
    assert {int(status) for status in responses} == {200, 400, 403, 408, 413, 415, 422, 503}
