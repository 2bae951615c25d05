"""Run the server: load the model, listen, and end after a signal."""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from base.errors import UsageError, require_extra
from base.terminal import Console
from train_head.predict.run import load_model
from train_head.serve.address import HostNames, format_address, is_loopback, open_socket
from train_head.serve.config import ServeConfig

if TYPE_CHECKING:
    from train_head.serve.app import Service

_PACKAGES = ("starlette", "uvicorn", "python_multipart")


def serve_model(config: ServeConfig, console: Console) -> Mapping[str, Any]:
    """Serve a model until a signal ends the process.

    Returns:
        The address, and the number of pictures that were classified.

    Raises:
        UsageError: an address that cannot be used, a missing package, or a run of another model.
        HeadstartError: the model, the run or its store cannot be read.
    """
    for package in _PACKAGES:
        require_extra(package, "serve", "serve", "serve")
    if config.run is None and (config.store or config.images):
        option = "--store" if config.store else "--images"
        raise UsageError(option, "a run", "no --run", "Give --run, or leave the option out")
    from train_head.serve.server import build_server

    with open_socket(config.host, config.port, allow_network=config.allow_network) as listener:
        service = build_service(config, console)
        address, names = format_address(listener), HostNames(is_loopback(listener))
        if not names.is_local:
            console.warning(
                f"Everyone who can reach {address} can use the model, without a password, and the connection is not "
                "encrypted. End the server when you no longer need it"
            )
        console.info(f"Open {address} in a browser. Ctrl-C ends the server.")
        if config.open:
            webbrowser.open(address)
        server = build_server(service, names)
        with contextlib.suppress(KeyboardInterrupt):
            server.run([listener])
    return {"address": address, "num_pictures": service.num_pictures}


def build_service(config: ServeConfig, console: Console) -> Service:
    """Load the model and the training pictures, and build the functions that answer requests."""
    from train_head.serve.app import Service
    from train_head.serve.classify import Classifier
    from train_head.serve.neighbours import load_training_pictures
    from train_head.serve.uploads import choose_limits

    model, policy = load_model(config.model, console, has_features=config.run is not None)
    training = load_training_pictures(config, model, console)
    classifier = Classifier(model, policy, config, training)
    classifier.warm_up()
    return Service(classifier, choose_limits(config), console)
