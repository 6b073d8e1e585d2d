"""Images through the frozen LPM, batch by batch: what a GPU is told to do, and what it has done, without Ray.

A GPU works off what it is told while this process goes on: the copies of a batch's features to the host run beside the
next batch, and the features of a shard are written while those of the next one are computed. On a CPU it is all done
when ``start`` returns.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from fpt_ray.features.spec import StoreSpec
from fpt_ray.images.pixels import normalise
from fpt_ray.models.importance import Extracted, extract

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens the LPM sees at once, over the images of a batch: on a CPU larger tensors cost more in page faults than they
save, on a GPU they keep it busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """Features that are being computed."""

    features: Extracted
    """In the stored type, on the CPU; they are whole once ``wait`` has returned."""
    began: Any
    """As ``_now`` gives it."""
    ends: Any

    def wait(self) -> float:
        """Waits until the features are whole; the seconds that the device took for them."""
        if isinstance(self.ends, float):
            return self.ends - self.began
        self.ends.synchronize()
        return self.began.elapsed_time(self.ends) / 1e3


def extract_batches(model: Any, images: UInt8[np.ndarray, "B R R 3"], spec: StoreSpec) -> Extracted:
    """Features of any number of high-resolution images, in the stored type, on the CPU."""
    started = start(model, images, spec)
    started.wait()
    return started.features


@torch.no_grad()
def start(model: Any, images: UInt8[np.ndarray, "B R R 3"], spec: StoreSpec) -> Started:
    """Has the features of high-resolution images computed, in batches whose size follows from the resolution alone."""
    device = next(model.parameters()).device
    step, kept = batch_images(spec, device), _host_memory(len(images), spec, pinned=device.type == "cuda")
    began = _now(device, copies=False)
    for first in range(0, len(images), step):
        batch = torch.from_numpy(np.array(images[first : first + step]))  # a copy: Ray's memory is not writable
        if device.type == "cuda":
            batch = batch.pin_memory().to(device, non_blocking=True)
        found = extract(
            model,
            normalise(batch, spec.mean, spec.std),
            blocks=spec.blocks,
            num_kept=spec.num_kept,
            importance=spec.importance,
            summarised=True,
        )
        with _beside(device, found):
            _copy_rows(found, kept, first)
    return Started(features=kept, began=began, ends=_now(device, copies=True))


def batch_images(spec: StoreSpec, device: torch.device) -> int:
    """Images of a batch."""
    return max(1, _BATCH_TOKENS.get(device.type, 2048) // spec.num_tokens)


def _host_memory(rows: int, spec: StoreSpec, *, pinned: bool) -> Extracted:
    dtype = getattr(torch, spec.dtype)
    size = (len(spec.blocks), rows, spec.num_heads, spec.num_kept)
    keys, values = (torch.empty(*size, spec.head_width, dtype=dtype, pin_memory=pinned) for _ in range(2))
    tokens = torch.empty(size, dtype=torch.int64, pin_memory=pinned)
    summaries = torch.empty(spec.backbone_depth, 2, rows, spec.width, dtype=dtype, pin_memory=pinned)
    return Extracted(keys, values, tokens, summaries)


def _copy_rows(found: Extracted, kept: Extracted, first: int) -> None:
    """Copies a batch's features to their rows, converted to the stored type where they are."""
    assert found.summaries is not None
    assert kept.summaries is not None
    pairs = [(kept.keys, found.keys), (kept.values, found.values), (kept.tokens, found.tokens)]
    pairs.append((kept.summaries.flatten(0, 1), found.summaries.flatten(0, 1)))
    for whole, part in pairs:
        for rows, ours in zip(whole, part.to(whole.dtype), strict=True):
            rows[first : first + len(ours)].copy_(ours, non_blocking=True)


# --- what is CUDA's alone -------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The queue of copies to the host, beside that of what is computed; one for each GPU of this process."""
    return torch.cuda.Stream(device)


@contextmanager
def _beside(device: torch.device, found: Extracted) -> Iterator[None]:
    """On CUDA, what follows runs beside the next batch, and after what was told so far; these tensors live as long."""
    if device.type != "cuda":
        yield
        return
    stream = _copy_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    for tensor in found:
        if tensor is not None:
            tensor.record_stream(stream)


def _now(device: torch.device, *, copies: bool) -> float | torch.cuda.Event:
    """The time, or on CUDA the point in what is computed, or copied to the host, that will have been reached."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(_copy_stream(device) if copies else torch.cuda.current_stream(device))
    return event
