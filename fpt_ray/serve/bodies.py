"""The images in the body of a request, never more of it in memory than the limits allow.

A body is one image as it is, or several as multipart/form-data (RFC 7578), of which every part is an image whatever it
is called: names are not looked at.
"""

import asyncio
from collections.abc import AsyncIterator

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from fpt_ray.serve.limits import Limits

_BODY_S = 120
"""So long a body may take to arrive."""
_FORM = "multipart/form-data"
_ONE_IMAGE = ("application/dicom", "application/octet-stream")


async def images_in(request: Request, limits: Limits) -> list[bytes]:
    """The files of all images that a request brings.

    Raises:
        HTTPException: 400, the body is cut off or no form; 408, it takes too long; 413, there are too many bytes or
            images; 415, it is of a type that is not taken; 422, there is no image.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    name = kind.decode("latin-1").lower()
    if name != _FORM and name not in _ONE_IMAGE and not name.startswith("image/"):
        raise HTTPException(415, f"the Content-Type is {name!r}; send image/*, {', '.join(_ONE_IMAGE)} or {_FORM}")
    try:
        async with asyncio.timeout(_BODY_S):
            if name == _FORM:
                found = await _parts(request, options.get(b"boundary", b""), limits)
            else:
                found = [b"".join([chunk async for chunk in _chunks(request, limits.request_bytes)])]
    except TimeoutError:
        raise HTTPException(408, f"the body took longer than {_BODY_S} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body is cut off") from None
    if not any(found):
        raise HTTPException(422, "the request has no image")
    return found


async def _chunks(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body piece by piece; it ends where it is told or found to be too long."""
    too_long = HTTPException(413, f"the body has more than {most:,} bytes")
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise too_long
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > most:
            raise too_long
        yield chunk


async def _parts(request: Request, boundary: bytes, limits: Limits) -> list[bytes]:
    """The content of each part of a form."""
    parts: list[bytearray] = []
    ended: list[bool] = []

    def begin() -> None:
        if len(parts) == limits.request_images:
            raise HTTPException(413, f"the request has more than {limits.request_images} images; send several requests")
        parts.append(bytearray())

    def add(data: bytes, start: int, end: int) -> None:
        parts[-1].extend(data[start:end])

    if not boundary:
        raise HTTPException(400, f"the Content-Type {_FORM} has no boundary")
    try:
        callbacks = {"on_part_begin": begin, "on_part_data": add, "on_end": lambda: ended.append(True)}
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        async for chunk in _chunks(request, limits.request_bytes):
            parser.write(chunk)
    except FormParserError as error:
        raise HTTPException(400, f"the body is no {_FORM} ({error})") from None
    if not ended:
        raise HTTPException(400, f"the body is no whole {_FORM}: its last boundary is missing")
    return [bytes(part) for part in parts]
