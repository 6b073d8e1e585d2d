"""A served bundle in turns with a plain loop of ``predict``, and under many requests of which some are bad."""

import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fpt_ray.bench.made import split_counts, write_jpegs
from fpt_ray.bench.served.load import Asked, Outcome, ask_all
from fpt_ray.bench.served.server import Server, serving
from fpt_ray.bench.stages.settings import ServeSetting
from fpt_ray.bench.stages.turns import all_cores, machine_load, rows_text, seconds_text, speedup_of
from fpt_ray.errors import ConfigError
from fpt_ray.predict.classifier import Classifier, load
from fpt_ray.predict.finding import bundle_named

_REQUEST_MIB = 2
_TOLERANCE = 1e-2
"""Between an image's probability in a batch and alone: 16-bit arithmetic rounds otherwise in other batches."""
_WARM_UP = 0.2
"""The share of the requests after which memory is looked at first."""
_TINY = (
    "--backbone.name vit_tiny_patch16_224 --backbone.weights random --features.resolution 224 --method probe "
    "--training.epochs 1 --training.batch_size 2 --local"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeTimes:
    """Seconds of each turn and request, and what came of all requests."""

    loop_s: tuple[float, ...]
    """Of each turn's images, one after the other, by ``predict``."""
    served_s: tuple[float, ...]
    """Of the same images by the server, asked by all clients."""
    alone_s: tuple[float, ...]
    """By the server, asked by one client."""
    latency_s: tuple[float, ...]
    """Of each request that all clients made in the turns."""
    images: int
    """Of a turn."""
    clients: int
    mixed: int
    mixed_s: float
    good: int
    """Of the mixed requests."""
    wrong: Mapping[str, int]
    """{how a mixed request came back that was to come back otherwise: how many}."""
    again: int
    """How often a mixed request was sent again, since all places were taken."""
    replica_bytes: tuple[int, int]
    """Of all replicas, after the warm-up and at the end."""
    front_bytes: tuple[int, int]
    ending_s: float
    threads: int
    load: float

    @property
    def speedup(self) -> float:
        """Of the server over the loop, in images a second; the median of the turns."""
        return speedup_of(self.loop_s, self.served_s)

    @property
    def alone(self) -> float:
        """Of one client over the loop."""
        return speedup_of(self.loop_s, self.alone_s)

    def as_json(self) -> dict[str, Any]:
        """Ratios and raw seconds."""
        return {"speedup": self.speedup, "alone": self.alone} | asdict(self)


def measure_serving(setting: ServeSetting, folder: Path) -> ServeTimes:
    """Starts the server, asks it, and ends it.

    Raises:
        RuntimeError: the server does not start or end as it should.
        ConfigError: there is no such bundle.
    """
    images = write_jpegs(folder / "images", split_counts(setting.images), setting.size)
    model = bundle_named(setting.model or _tiny_model(images, folder), str(folder))
    files = sorted(images.rglob("*.jpg"))
    good = [Asked(body=file.read_bytes(), status=200, image=number) for number, file in enumerate(files)]
    backbone = ("--backbone", setting.backbone) if setting.backbone else ()
    request_mib = max(_REQUEST_MIB, -(-max(len(one.body) for one in good) // 2**20))
    options = ["--replicas", str(setting.replicas), "--request_mib", str(request_mib), *backbone]
    with all_cores() as threads:
        classifier = load(model, setting.backbone)
        if classifier.bundle.target.task == "regression":
            raise ConfigError(f"{model} predicts values; give --model a bundle of classes or labels")
        expected = classifier.predict(files).probabilities
        with serving(model, options, folder) as server:
            turns = [_turn(server, classifier, files, good, setting.clients) for _ in range(1 + setting.rounds)][1:]
            mixed = _mixed(server, good, request_mib, setting, expected)
            started = time.perf_counter()
        ending_s = time.perf_counter() - started
    loop_s, served_s, alone_s, latencies = zip(*turns, strict=True)
    return ServeTimes(
        loop_s=loop_s,
        served_s=served_s,
        alone_s=alone_s,
        latency_s=tuple(one for turn in latencies for one in turn),
        images=len(files),
        clients=setting.clients,
        ending_s=ending_s,
        threads=threads,
        load=machine_load(),
        **mixed,
    )


def _turn(
    server: Server, classifier: Classifier, files: Sequence[Path], good: Sequence[Asked], clients: int
) -> tuple[float, float, float, list[float]]:
    """Seconds of the loop, of all clients and of one, and those of each request of all clients."""
    started = time.perf_counter()
    for file in files:
        classifier.predict([file])
    looped = time.perf_counter()
    outcomes = ask_all(server.address, server.token, good, clients, lambda _: None)
    if refused := sorted({one.status for one in outcomes if one.status != one.asked.status}):
        raise RuntimeError(f"the server has answered good images with {', '.join(map(str, refused))}")
    served = time.perf_counter()
    ask_all(server.address, server.token, good, 1, lambda _: None)
    alone = time.perf_counter()
    return looped - started, served - looped, alone - served, [outcome.seconds for outcome in outcomes]


def _mixed(
    server: Server, good: Sequence[Asked], request_mib: int, setting: ServeSetting, expected: np.ndarray
) -> dict[str, Any]:
    """Many requests, a third of them bad, in an order that is drawn."""
    drawn, bad = random.Random(0), bad_requests(good[0].body, request_mib)
    requests = [drawn.choice(bad if drawn.random() < 1 / 3 else good) for _ in range(setting.requests)]
    held: dict[int, tuple[int, int]] = {}

    def look(count: int) -> None:
        if count in (int(_WARM_UP * len(requests)), len(requests)):
            held[count] = server.replica_bytes, server.front_bytes

    started = time.perf_counter()
    outcomes = ask_all(server.address, server.token, requests, setting.clients, look)
    seconds = time.perf_counter() - started
    replica_bytes, front_bytes = zip(*(held[count] for count in sorted(held)), strict=True)
    return {
        "mixed": len(requests),
        "mixed_s": seconds,
        "good": sum(asked.image is not None for asked in requests),
        "wrong": wrong_of(outcomes, len(requests), expected),
        "again": sum(outcome.again for outcome in outcomes),
        "replica_bytes": replica_bytes,
        "front_bytes": front_bytes,
    }


def bad_requests(jpeg: bytes, request_mib: int = _REQUEST_MIB) -> list[Asked]:
    """One of each kind that must be refused."""
    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", len(size)) + b"IHDR" + size + struct.pack(">I", zlib.crc32(b"IHDR" + size))
    return [
        Asked(body=b"no image", status=422),
        Asked(body=b"", status=422),
        Asked(body=jpeg[: len(jpeg) // 2], status=422),
        Asked(body=b"\x89PNG\r\n\x1a\n" + header + bytes(100), status=422),
        Asked(body=bytes(request_mib * 2**20 + 1), status=413),
        Asked(body=b"no image", status=415, kind="text/plain"),
        Asked(body=b"no image", status=401, token=False),
    ]


def wrong_of(outcomes: Sequence[Outcome], asked: int, expected: np.ndarray) -> dict[str, int]:
    """{what is wrong: how many requests}, of those that are lost, have another status, or other probabilities."""
    found: dict[str, int] = {"lost": asked - len(outcomes)} if asked > len(outcomes) else {}
    for outcome in outcomes:
        what = ""
        if outcome.status != outcome.asked.status:
            what = f"{outcome.status} for {outcome.asked.status}"
        elif outcome.asked.image is not None:
            shares = list(outcome.answer["answers"][0]["probabilities"].values())
            if np.abs(shares - expected[outcome.asked.image]).max() > _TOLERANCE:
                what = "other probabilities"
        if what:
            found[what] = found.get(what, 0) + 1
    return found


def _tiny_model(images: Path, folder: Path) -> str:
    """The folder of a run of a tiny ViT with random weights."""
    command = [sys.executable, "-m", "fpt_ray.train", "--images", str(images), "--workdir", str(folder), *_TINY.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"no model to serve: {done.stderr[-500:]}")
    return str(next(Path(folder, "runs").iterdir()))


def serve_text(times: ServeTimes) -> str:
    """The table that people read."""
    head = (
        f"{times.images} images a turn, {times.clients} clients, {times.threads} threads, medians of "
        f"{len(times.loop_s)} turns; load {times.load:.1f}"
    )
    p50, p95 = np.percentile(times.latency_s, (50, 95))
    wrong = ", ".join(f"{count} x {what}" for what, count in times.wrong.items()) or "none"
    replicas, front = ([f"{held / 2**20:.0f}" for held in kind] for kind in (times.replica_bytes, times.front_bytes))
    rows = (
        seconds_text("a plain loop of predict", times.loop_s),
        seconds_text("the server, all clients", times.served_s),
        seconds_text("the server, one client", times.alone_s),
        ("images a second over the loop's", f"{times.speedup:.2f}; one client {times.alone:.2f}"),
        ("requests a second, all clients", f"{times.images / float(np.median(times.served_s)):.1f}"),
        ("a request, all clients", f"p50 {1000 * p50:.0f} ms, p95 {1000 * p95:.0f} ms"),
        (f"{times.mixed} mixed requests ({times.good} good)", f"{times.mixed_s:.1f} s, sent again {times.again}"),
        ("of them lost or wrong", wrong),
        ("MiB of the replicas, then and now", " -> ".join(replicas)),
        ("MiB of the front, then and now", " -> ".join(front)),
        ("ended after", f"{times.ending_s:.1f} s"),
    )
    return rows_text(head, rows)
