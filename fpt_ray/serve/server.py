"""The HTTP server in this process: its address, taken before anything expensive starts, and its run to a signal."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from fpt_ray.errors import ConfigError

_ENDING_S = 20
"""So long requests that are being answered have at the end."""
_HEADER_BYTES = 32 * 2**10
_LOOPBACK = ("127.0.0.1", "localhost")


def is_loopback(host: str) -> bool:
    """Whether what listens there is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def answered_hosts(host: str) -> list[str]:
    """The names in the header Host that a server at an address answers to; of one that others reach, all."""
    return [*_LOOPBACK, in_url(host)] if is_loopback(host) else ["*"]


def in_url(host: str) -> str:
    """An address as URLs and the header Host have it."""
    return f"[{host}]" if ":" in host else host


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at this address, where who asks waits until it is answered; port 0 is any that is free.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen()  # of two that are bound, as Linux lets them be, the second would fail when all has started
    except (OSError, OverflowError) as error:
        found.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened at ({error}); give another port", fields=("port", "host")
        ) from None
    return found


def address_of(bound_socket: socket.socket) -> str:
    """Its URL, with a slash at the end."""
    host, port = bound_socket.getsockname()[:2]
    return f"http://{in_url(host)}:{port}/"


def run_server(app: ASGIApp, at: socket.socket, started: Callable[[], None]) -> None:
    """Answers requests until SIGINT or SIGTERM; then those that are there are answered, and no more.

    ``started`` is called when requests are answered.
    """
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        access_log=False,  # the app has its own, which names no image
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=_ENDING_S,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        lifespan="off",
        ws="none",
        loop="asyncio",
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        telling = asyncio.create_task(_told_when_started(server, started))
        try:
            await server.serve(sockets=[at])
        finally:
            telling.cancel()

    with suppress(KeyboardInterrupt):  # the signal, raised once more when all is answered
        asyncio.run(serve())


async def _told_when_started(server: uvicorn.Server, started: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    started()
