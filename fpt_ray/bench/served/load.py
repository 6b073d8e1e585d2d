"""Requests from several client threads, and what came back of each."""

import http.client
import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_S = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request."""

    body: bytes
    status: int
    """That it must come back with."""
    image: int | None = None
    """The number of the good image that it brings, if it does."""
    kind: str = "image/jpeg"
    token: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came back of a request."""

    asked: Asked
    status: int
    """0: nothing, for the connection broke."""
    answer: dict[str, Any]
    seconds: float
    """Until the answer, from the last time that it was sent."""
    again: int
    """How often it was sent again, since all places were taken."""


def ask_all(
    address: str, token: str, requests: Sequence[Asked], clients: int, each: Callable[[int], None]
) -> list[Outcome]:
    """Outcomes in the order of the requests; ``each`` is called with how many there are, after every one."""
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(requests)):
        todo.put(number)
    found: dict[int, Outcome] = {}
    lock = threading.Lock()

    def client() -> None:
        connection = _connection(address)
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                break
            outcome = _ask(connection, token, requests[number])
            with lock:
                found[number] = outcome
                each(len(found))
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(len(requests)) if number in found]


def _connection(address: str) -> http.client.HTTPConnection:
    url = urlsplit(address)
    assert url.hostname is not None
    return http.client.HTTPConnection(url.hostname, url.port, timeout=_TIMEOUT_S)


def _ask(connection: http.client.HTTPConnection, token: str, asked: Asked) -> Outcome:
    headers = {"Content-Type": asked.kind}
    if asked.token:
        headers["Authorization"] = f"Bearer {token}"
    again = 0
    while True:
        started = time.perf_counter()
        try:
            connection.request("POST", "/predict", asked.body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it again
            return Outcome(asked=asked, status=0, answer={}, seconds=time.perf_counter() - started, again=again)
        seconds, later = time.perf_counter() - started, response.headers.get("Retry-After")
        if later is None:
            answer = json.loads(content)
            return Outcome(asked=asked, status=response.status, answer=answer, seconds=seconds, again=again)
        again += 1
        time.sleep(float(later))
