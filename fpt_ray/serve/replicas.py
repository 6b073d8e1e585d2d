"""The bundle behind Ray Serve: replicas that decode on threads and compute batches, and how they are asked."""

import asyncio
import importlib
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from jaxtyping import UInt8
from ray import serve
from ray.exceptions import RayActorError
from ray.serve._private.constants import SERVE_LOGGER_NAME
from ray.serve.config import ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from fpt_ray.cluster import cluster_resources
from fpt_ray.predict.classifier import Classifier
from fpt_ray.predict.ensemble import Ensemble, handed_over, taken_over
from fpt_ray.serve.answers import Answer, answers_json, evidence_json, looked_at_square, square_or_answer
from fpt_ray.serve.app import Unavailable

_NAME = "fpt_ray"
_BATCH = 16
"""Images that are computed at once, as the classifier takes them."""
_WAIT_S = 0.005
"""So long the first image of a batch waits for others."""
_ENDING_S = 1.0
"""Until a replica ends: what it was asked is answered before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What a replica has of the machine."""

    cpus: float
    gpus: float
    threads: int


def share_of(replicas: int, cpus: int, gpus: int) -> Share:
    """The share of each of so many equal replicas; several have a GPU together where there are fewer GPUs."""
    alone = 1 / math.ceil(replicas / gpus) if gpus else 0.0
    return Share(
        cpus=max(math.floor(1000 * cpus / replicas) / 1000, 0.001),
        gpus=math.floor(1000 * alone) / 1000,
        threads=max(1, cpus // replicas),
    )


def listen_on_loopback() -> None:
    """Has this replica's own server, which others of Serve's processes ask, listen at 127.0.0.1 and not at [::].

    Ray Serve has no setting for it, and what comes there is unpickled. A test looks at the sockets.
    """
    replica: Any = importlib.import_module("ray.serve._private.replica")
    added = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, _: added(server, "127.0.0.1:0")


class Replica:
    """A process that has the networks."""

    def __init__(self, shared: tuple[Any], threads: int, max_pixels: int) -> None:
        # What libraries say of a file may quote it; it would stand in Ray's logs.
        warnings.simplefilter("ignore")
        logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
        listen_on_loopback()
        torch.set_num_threads(threads)
        (self.classifier,) = taken_over(ray.get(shared[0])).members
        self.max_pixels = max_pixels
        self.decoding = ThreadPoolExecutor(threads)
        self.computing = ThreadPoolExecutor(1)
        self.drawing = ThreadPoolExecutor(1)  # matplotlib is not for several threads at once

    async def check(self) -> bool:
        """True, as long as this process answers."""
        return True

    async def answer(self, images: Sequence[bytes], evidence: bool) -> list[Answer]:
        """What is said of each file, in their order, and with ``evidence`` what was looked at in it."""
        return list(await asyncio.gather(*(self._answer(data, evidence) for data in images)))

    async def _answer(self, data: bytes, evidence: bool) -> Answer:
        preparation = self.classifier.bundle.spec.preparation
        loop = asyncio.get_running_loop()
        square, answer = await loop.run_in_executor(self.decoding, square_or_answer, data, preparation, self.max_pixels)
        if square is None:
            return answer
        answer |= {**await self.compute(square), "error": None}
        if evidence:
            looked = await loop.run_in_executor(self.computing, looked_at_square, self.classifier, square)
            answer["evidence"] = await loop.run_in_executor(self.drawing, evidence_json, looked)
        return answer

    @serve.batch(max_batch_size=_BATCH, batch_wait_timeout_s=_WAIT_S)
    async def compute(self, squares: list[UInt8[np.ndarray, "R R 3"]]) -> list[Answer]:
        """What is said of images of any requests: one is given, and they are computed together."""
        return await asyncio.get_running_loop().run_in_executor(self.computing, self._computed, squares)

    def _computed(self, squares: list[UInt8[np.ndarray, "R R 3"]]) -> list[Answer]:
        return answers_json(self.classifier.answers(np.stack(squares)))


def start_replicas(classifier: Classifier, replicas: int, *, requests: int, max_pixels: int) -> DeploymentHandle:
    """Starts Ray Serve without a server of its own, and so many replicas; returns when they can be asked. Ray runs.

    They end with Ray's session.

    Args:
        classifier: the networks, on the CPU; replicas bring them to their device.
        replicas: the number of processes.
        requests: so many are asked at most at once.
        max_pixels: of an image, by its header.
    """
    share = share_of(replicas, *cluster_resources())
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    logging.getLogger(SERVE_LOGGER_NAME).addFilter(lambda record: record.levelno >= logging.WARNING)
    serve.start(proxy_location=ProxyLocation.Disabled, logging_config=quiet)
    deployment: Any = serve.deployment(
        Replica,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": share.cpus, "num_gpus": share.gpus},
        # One more than is ever asked, so that no question about health waits.
        max_ongoing_requests=requests + 1,
        graceful_shutdown_wait_loop_s=_ENDING_S,
        graceful_shutdown_timeout_s=_ENDING_S,
    )
    shared = (ray.put(handed_over(Ensemble(members=(classifier,)))),)
    app = deployment.bind(shared, share.threads, max_pixels)
    return serve.run(app, name=_NAME, route_prefix=None, logging_config=quiet)


def asked(method: Any) -> Callable[..., Any]:
    """A replica's method as a coroutine function of this process.

    Raises:
        Unavailable: the replica was lost, or there is none.
    """

    async def call(*given: Any) -> Any:
        try:
            return await method.remote(*given)
        except (RayActorError, RayServeException) as error:
            raise Unavailable from error

    return call
