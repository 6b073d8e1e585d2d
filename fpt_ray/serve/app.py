"""The web application: images in by HTTP, answers out as JSON, and a page. What computes is handed to it.

Every refusal is JSON, {"error": why}. Nothing here needs Ray.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from fpt_ray.serve.access import guarded, logged
from fpt_ray.serve.answers import Answer
from fpt_ray.serve.bodies import images_in
from fpt_ray.serve.limits import Limits

_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEALTH = "/healthz"
_HEALTHY_WITHIN_S = 5
_LOOKING = 2
"""Requests for evidence at once: it takes seconds an image, and others are not to wait for it."""
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    **_HEADERS,
}
_LATER = {"Retry-After": "1"}


class Unavailable(Exception):
    """What computes is not there just now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What computes, as the application sees it."""

    answer: Callable[[Sequence[bytes], bool], Awaitable[list[Answer]]]
    """Of each file, in their order, with evidence where that is asked for; raises ``Unavailable``."""
    check: Callable[[], Awaitable[Any]]
    """Returns where ``answer`` would; raises ``Unavailable``."""
    metadata: Mapping[str, Any]


def make_app(model: Model, limits: Limits, token: str | None, hosts: Sequence[str]) -> ASGIApp:
    """The application.

    Args:
        model: what computes.
        limits: what is taken at most.
        token: what a request must bear; None: nothing.
        hosts: the names in the header Host that are answered to, so that no other site's page can ask in a browser on
            this machine; "*" is any.
    """
    app = Starlette(
        routes=[
            Route("/predict", _predict, methods=["POST"]),
            Route("/metadata", _metadata),
            Route(_HEALTH, _healthz),
            *(Route(path, _file) for path in _FILES),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers={HTTPException: _refused, Unavailable: _unavailable, Exception: _failed},
    )
    app.state.model, app.state.limits = model, limits
    app.state.places = asyncio.Semaphore(limits.requests)
    app.state.looking = asyncio.Semaphore(min(_LOOKING, limits.requests))
    unguarded = {_HEALTH, *_FILES}
    return logged(guarded(app, token, unguarded), {"/predict", "/metadata", *unguarded})


# --- what is asked ------------------------------------------------------------------------------------------------


async def _predict(request: Request) -> Response:
    state = request.app.state
    evidence = _asks_evidence(request)
    places = [state.places, state.looking] if evidence else [state.places]
    for one in places:
        if one.locked():
            raise HTTPException(503, "as many requests as may be are being answered; ask again", headers=_LATER)
    async with AsyncExitStack() as held:
        for one in places:
            await held.enter_async_context(one)
        found = await state.model.answer(await images_in(request, state.limits), evidence)
    unread = all(answer.get("error") for answer in found)
    return _json({"model": state.model.metadata["model"], "answers": found}, 422 if unread else 200)


def _asks_evidence(request: Request) -> bool:
    asked = request.query_params.get("evidence", "0")
    if asked not in ("0", "1"):
        raise HTTPException(400, f"evidence is {asked[:20]!r}; give 1, or leave it out")
    if asked == "1" and (why := request.app.state.model.metadata["without_evidence"]):
        raise HTTPException(422, why)
    return asked == "1"


async def _metadata(request: Request) -> Response:
    return _json(request.app.state.model.metadata)


async def _healthz(request: Request) -> Response:
    try:
        await asyncio.wait_for(request.app.state.model.check(), _HEALTHY_WITHIN_S)
    except TimeoutError:
        raise Unavailable from None
    return _json({"status": "ok"})


async def _file(request: Request) -> Response:
    name, kind = _FILES[request.url.path]
    return Response((_PAGE / name).read_bytes(), media_type=kind, headers=_PAGE_HEADERS)


# --- what is said -------------------------------------------------------------------------------------------------


def _json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(content, status, headers={**_HEADERS, **(headers or {})})


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _unavailable(_: Request, __: Exception) -> Response:
    return _json({"error": "nothing can compute just now; ask again"}, 503, _LATER)


async def _failed(_: Request, __: Exception) -> Response:
    return _json({"error": "the server failed; its log says why"}, 500)
