"""Application: the page, and the endpoints that it and other programs use. docs/how-to/serve.md describes them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from base.errors import HeadstartError
from base.terminal import Console
from extract.decoding.read import UndecodableImageError
from extract.images.recognize import list_extensions
from train_head.serve.address import HostNames
from train_head.serve.classify import Classified, Classifier
from train_head.serve.errors import AsciiJSONResponse, RequestError, build_response
from train_head.serve.form import Upload
from train_head.serve.guard import Guard
from train_head.serve.uploads import Admission, Limits, read_uploads

STATIC = Path(__file__).parent / "static"
"""Folder of the files of the page."""
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/openapi.json": ("openapi.json", "application/json"),
}
_PICTURE_ADVICE = "Send another file"


class Service:
    """Functions that answer the requests."""

    def __init__(self, classifier: Classifier, limits: Limits, console: Console) -> None:
        """Prepare the answers that do not depend on a request."""
        self._classifier, self._limits, self._console = classifier, limits, console
        self._admission = Admission(limits)
        self._model = describe_model(classifier, limits)
        self.num_pictures = 0
        """Number of pictures that were classified."""

    async def show_model(self, _: Request) -> Response:
        """Return the classes, the limits and the versions."""
        return AsciiJSONResponse(self._model)

    async def show_health(self, _: Request) -> Response:
        """Return the number of requests in progress."""
        return AsciiJSONResponse({"status": "ok", "requests": self._admission.num_requests})

    async def predict(self, request: Request) -> Response:
        """Classify the pictures of a request."""
        try:
            with self._admission.hold_bytes() as hold:
                uploads = await read_uploads(request, self._limits, hold)
                # A slow upload does not delay the requests that have arrived.
                with self._admission.admit():
                    return await self._classify(uploads)
        except RequestError as error:
            # The frames of a raised error would keep the body in memory until the response is sent.
            return build_response(error)
        except ClientDisconnect:
            return Response(status_code=400)

    async def show_thumbnail(self, request: Request) -> Response:
        """Return the thumbnail of a training picture, by its number."""
        text, training = request.path_params["number"], self._classifier.training
        number = int(text) if re.fullmatch("[0-9]{1,9}", text) else -1
        where, expected = f"thumbnail {text[:10]}", "a training picture"
        if training is None or not 0 <= number < len(training):
            raise RequestError(404, where, expected, "none with this number", "Use the addresses of `nearest`")
        try:
            data = await self._classifier.run_in_thread(training.render_thumbnail, number)
        except UndecodableImageError as error:
            advice = "Start the server with the folder of the pictures as --images"
            raise RequestError(404, where, expected, str(error), advice) from error
        return Response(data, media_type="image/jpeg")

    async def _classify(self, uploads: Sequence[Upload]) -> Response:
        seconds = self._limits.predict_s
        try:
            async with asyncio.timeout(seconds):
                results = await asyncio.gather(*map(self._classifier.classify, uploads))
        except TimeoutError as error:
            expected, got = f"predictions within {seconds:g} s", "too many pictures that wait"
            raise RequestError(503, "server", expected, got, "Try again later") from error
        found: dict[str, list[Any]] = {"predictions": [], "failed": []}
        for number, (upload, result) in enumerate(zip(uploads, results, strict=True)):
            if isinstance(result, Classified):
                found["predictions"].append({"index": number} | self._describe(result) | {"image": upload.name})
            else:
                found["failed"].append({"index": number, "image": upload.name, "reason": result.reason})
        self.num_pictures += len(found["predictions"])
        if found["predictions"]:
            return AsciiJSONResponse(found)
        first = found["failed"][0]
        where = first["image"] or "picture"
        return build_response(RequestError(422, where, "a picture", first["reason"], _PICTURE_ADVICE), found)

    def _describe(self, classified: Classified) -> dict[str, Any]:
        described = classified.prediction.to_json(is_multi_label=self._model["is_multi_label"])
        if classified.nearest is not None:
            described["nearest"] = [
                {**near._asdict(), "thumbnail": f"/thumbnails/{near.number}"} for near in classified.nearest
            ]
        return described

    async def answer_error(self, _: Request, error: Exception) -> Response:
        """Return the response to an error that a function raised."""
        match error:
            case RequestError():
                return build_response(error)
            case HTTPException():
                expected, advice = "a request of this server", "GET /openapi.json lists the requests"
                return build_response(RequestError(error.status_code, "request", expected, error.detail, advice))
        found = str(error) if isinstance(error, HeadstartError) else f"{type(error).__name__}: {error}"
        self._console.error(found)
        return build_response(RequestError(500, "server", "no internal error", found, "Report it"))


def describe_model(classifier: Classifier, limits: Limits) -> dict[str, Any]:
    """Return the object of `GET /model`."""
    model, card, training = classifier.model, classifier.model.card, classifier.training
    return {
        "format": model.format,
        "classes": card.classes,
        "is_multi_label": card.is_multi_label,
        "thresholds": card.thresholds,
        "outlier_threshold": card.outlier_threshold,
        "image_size": card.image_size,
        "weights": card.weights,
        "val_accuracy": card.val_accuracy,
        "fingerprint": card.fingerprint,
        "run": card.run,
        "versions": dict(model.description.versions) if model.description else {},
        "num_training_pictures": len(training) if training else 0,
        "has_thumbnails": bool(training and training.has_files),
        "extensions": sorted(list_extensions()),
        "limits": {"bytes": limits.max_bytes, "pixels": limits.max_pixels, "pictures": limits.max_files},
    }


def build_app(service: Service, names: HostNames) -> Starlette:
    """Build the application.

    Args:
        service: the functions that answer.
        names: the names of this server.
    """
    routes = [
        Route("/predict", service.predict, methods=["POST"]),
        Route("/model", service.show_model),
        Route("/health", service.show_health),
        Route("/thumbnails/{number}", service.show_thumbnail),
        *(Route(path, _serve_file((STATIC / name).read_bytes(), kind)) for path, (name, kind) in _FILES.items()),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((RequestError, HTTPException, HeadstartError), service.answer_error)
    handlers[Exception] = service.answer_error
    return Starlette(routes=routes, middleware=[Middleware(Guard, names)], exception_handlers=handlers)


def _serve_file(data: bytes, kind: str) -> Any:
    async def answer(_: Request) -> Response:
        return Response(data, media_type=kind)

    return answer
