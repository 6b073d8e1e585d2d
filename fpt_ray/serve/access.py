"""Who may ask, and what is written down of it: neither tokens nor anything that a client calls an image."""

import hmac
import os
import secrets
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError

TOKEN_VARIABLE = "FPT_RAY_SERVE_TOKEN"
_LEAST_CHARACTERS = 16


def token_at_start() -> tuple[str, bool]:
    """(the token, whether it was drawn just now); one in the environment is taken out of it, so no worker has it.

    Raises:
        ConfigError: the variable holds what is no token.
    """
    given = os.environ.pop(TOKEN_VARIABLE, None)
    if given is None:
        return secrets.token_urlsafe(32), True
    if len(given) < _LEAST_CHARACTERS or not given.isascii() or not given.isprintable() or " " in given:
        raise ConfigError(
            f"{TOKEN_VARIABLE} is no token; give {_LEAST_CHARACTERS} or more letters, digits and signs of ASCII, "
            "without spaces"
        )
    return given, False


def guarded(app: ASGIApp, token: str | None, unguarded: Collection[str]) -> ASGIApp:
    """An app of which only the unguarded paths answer without the token; None: all do. What is not known is guarded."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in unguarded and not _has_token(Headers(scope=scope), token):
            refused = JSONResponse(
                {"error": "the header 'Authorization: Bearer TOKEN' is missing or has another token"},
                401,
                # The body, which nobody reads, ends with the connection.
                headers={"WWW-Authenticate": "Bearer", "Connection": "close"},
            )
            await refused(scope, receive, send)
        else:
            await app(scope, receive, send)

    return checked


def _has_token(headers: Headers, token: str | None) -> bool:
    if token is None:
        return True
    scheme, _, given = headers.get("authorization", "").partition(" ")
    # Of strings compare_digest takes ASCII alone.
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def logged(app: ASGIApp, known: Collection[str]) -> ASGIApp:
    """An app that says a line for each request: method, path (of those that it knows), status and milliseconds."""

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        started, statuses = time.perf_counter(), [500]

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        try:
            await app(scope, receive, noted)
        finally:
            if scope["type"] == "http":
                path = scope["path"] if scope["path"] in known else "an unknown path"
                method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "?"
                taken = 1000 * (time.perf_counter() - started)
                say(f"serve: {method} {path} {statuses[-1]} {taken:.0f} ms")

    return timed
