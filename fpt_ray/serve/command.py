"""Serves a bundle by HTTP on this machine: images in, calibrated probabilities out, and a page to drop an image on.

It runs until Ctrl-C or SIGTERM. Who asks must bear the token that is printed at the start, or that of
FPT_RAY_SERVE_TOKEN. Ray Serve and all that belongs to it are reached from this machine alone.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fpt_ray.errors import ConfigError

if TYPE_CHECKING:
    from fpt_ray.serve.limits import Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """The options of ``serve``."""

    model: str
    """The folder of a bundle or of a run of train; or a study of workdir, whose best trial by its validation score is
    taken; or one of its trials, as STUDY:NUMBER; or `best`, of all studies of workdir; or a registered model,
    models:/NAME@ALIAS or models:/NAME/VERSION."""
    workdir: str = "."
    """The working directory of the study."""
    host: str = "127.0.0.1"
    """The address to listen at. Others than this machine's own let other machines in, by HTTP that is not encrypted."""
    port: int = 8000
    """The port to listen at; 0 is any that is free."""
    replicas: int = 1
    """The number of processes that compute; they share the cores and the GPUs."""
    open: bool = False
    """Answer without a token; on this machine's own address alone."""
    backbone: str | None = None
    """The file of the LPM's weights. Default: where they were in training."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database, for models:/... Default: MLFLOW_TRACKING_URI, else mlflow.db in workdir."""
    request_mib: int = 64
    """The most MiB of a request, up to 512."""
    request_images: int = 16
    """The most images of a request."""
    image_megapixels: int = 50
    """The most millions of pixels of an image, up to 89."""
    requests: int = 64
    """The most requests at once; others are told to come again."""


def run(command: Command) -> None:
    """Starts Ray Serve and answers until it is told to end.

    Raises:
        ConfigError: there is no such bundle, its LPM is another one, an option or the token cannot be used, the address
            is taken, or the extra ``serve`` is missing.
    """
    # Ray listens at this machine's own address alone where it takes it for one that joins no cluster.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    _require_extra()
    import torch

    from fpt_ray.cluster import ray_session
    from fpt_ray.display.terminal import say
    from fpt_ray.predict.classifier import classifier_of
    from fpt_ray.predict.finding import bundle_named
    from fpt_ray.serve.access import token_at_start
    from fpt_ray.serve.answers import metadata_json
    from fpt_ray.serve.app import Model, make_app
    from fpt_ray.serve.replicas import asked, start_replicas
    from fpt_ray.serve.server import address_of, answered_hosts, bound, run_server
    from fpt_ray.train.bundle import bundle_digest, read_bundle, with_backbone_at

    limits = _limits(command)
    token, drawn = (None, False) if command.open else token_at_start()
    uri = bundle_named(command.model, command.workdir, command.tracking_uri)
    bundle = with_backbone_at(read_bundle(uri), command.backbone)
    with bound(command.host, command.port) as at:
        classifier = classifier_of(bundle, torch.device("cpu"))  # replicas bring it to their device
        say(f"serve: starting {command.replicas} x {uri}")
        with ray_session(local=True):
            handle = start_replicas(
                classifier, command.replicas, requests=limits.requests, max_pixels=limits.image_pixels
            )
            metadata = metadata_json(bundle, bundle_digest(uri), limits)
            model = Model(answer=asked(handle.answer), check=asked(handle.check), metadata=metadata)
            app = make_app(model, limits, token, answered_hosts(command.host))
            run_server(app, at, lambda: print(_told(address_of(at), token if drawn else None), flush=True))
    say("serve: ended")


def _told(address: str, drawn: str | None) -> str:
    """What is printed once it answers; a token that was drawn stands there and nowhere else."""
    if drawn is None:
        return f"serving at {address}"
    return f"serving at {address}\nthe page, with the token: {address}#{drawn}\ntoken: {drawn}"


def _limits(command: Command) -> "Limits":
    from fpt_ray.serve.limits import Limits
    from fpt_ray.serve.server import is_loopback

    if command.open and not is_loopback(command.host):
        raise ConfigError(f"open, and host is {command.host}: everybody could ask; leave one out", fields=("host",))
    if command.replicas < 1:
        raise ConfigError(f"replicas is {command.replicas}; give 1 or more", fields=("replicas",))
    return Limits(
        request_bytes=command.request_mib * 2**20,
        request_images=command.request_images,
        image_pixels=command.image_megapixels * 10**6,
        requests=command.requests,
    )


def _require_extra() -> None:
    try:
        import python_multipart  # noqa: F401
        from ray import serve  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{error.name or error} is missing; pip install 'fpt_ray[serve]'") from None
