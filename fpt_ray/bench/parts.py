"""Seconds and bytes of the parts that decide: extraction, a read, a preload."""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from fpt_ray.config.space import need_of
from fpt_ray.config.trial import BackboneConfig, Precision, TrialConfig
from fpt_ray.display.units import MIB
from fpt_ray.features.joining import Features, SplitRows
from fpt_ray.features.places import GroupsAtHand
from fpt_ray.features.rows import Rows, group_of
from fpt_ray.features.shards import shard_table
from fpt_ray.features.spec import StoreSpec, bytes_per_row, everything, store_spec
from fpt_ray.images.table import ImageRow, content_hashes
from fpt_ray.models.backbone import backbone_shape, kept_tokens
from fpt_ray.models.device import compute_device
from fpt_ray.models.importance import Extracted, extract
from fpt_ray.models.weights import load_backbone

_PAPER = TrialConfig()


def _median_seconds(work: Callable[[], object], runs: int) -> float:
    if runs > 1:  # a single run is of work that takes minutes
        work()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def bench_extract(resolution: int, depth: int, runs: int, batch: int) -> None:
    """Seconds an image of ViT-B/16's forward pass with features, random weights, in float32 and bfloat16."""
    name = _PAPER.backbone.name
    device = compute_device()
    model = load_backbone(BackboneConfig(name=name, weights="random"), resolution).to(device)
    shape = backbone_shape(name)
    kept, blocks = kept_tokens(shape.num_tokens(resolution), 0.2), range(shape.depth - depth, shape.depth)
    images = torch.randn(batch, 3, resolution, resolution, device=device)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype)
        found[dtype] = _median_seconds(lambda: extract(model, images, blocks=blocks, num_kept=kept), runs) / len(images)
        print(f"{name} at {resolution} px on {device}, {str(dtype)[6:]}: {found[dtype]:.3f} s an image")
    print(f"float32 / bfloat16: {found[torch.float32] / found[torch.bfloat16]:.2f}")
    print(f"largest resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


def bench_read(rows: int, runs: int) -> None:
    """Seconds to copy a batch of 16 rows out of a store in shared memory, at the paper's setting, whole and halved."""
    spec = store_spec(need_of(_PAPER))
    place, features = _random_rows(spec, rows)
    ids = np.random.default_rng(0).permutation(rows)[:16]
    print(f"{bytes_per_row(spec) / 1e6:.2f} MB a row")
    for cut in (everything(spec), replace(everything(spec), blocks=spec.blocks[3:], num_kept=102)):
        view = Rows(place, features, "train", cut)
        seconds = _median_seconds(lambda view=view: view.take(ids), runs)
        batch = view.take(ids)
        assert batch.keys is not None
        print(f"{cut}: {seconds * 1e3:.1f} ms a batch, {2 * batch.keys.nbytes / seconds / 1e9:.2f} GB/s")


def _random_rows(spec: StoreSpec, rows: int) -> tuple[GroupsAtHand, Features]:
    size = (len(spec.blocks), rows, spec.num_heads, spec.num_kept)
    keys, summaries = torch.randn(*size, spec.head_width), torch.zeros(spec.backbone_depth, 2, rows, spec.width)
    images = tuple(ImageRow(path=str(i), label=0, split="train", sha256=f"{i:064x}") for i in range(rows))
    low = [np.zeros((rows, side, side, 3), np.uint8) for side in spec.low_resolutions]
    table = shard_table(images, low, Extracted(keys, keys, torch.zeros(size, dtype=torch.int64), summaries), spec)
    numbers = np.arange(rows)
    split = SplitRows(hashes=content_hashes(images), labels=numbers * 0, shards=numbers * 0, rows=numbers)
    features = Features(
        uri="", spec=spec, shards=(), classes=(), splits={"train": split}, table_digest="", data_note="", skipped=()
    )
    return GroupsAtHand({0: (numbers, group_of(table, spec, everything(spec)))}), features


def bench_preload(count: int, size: int, precision: Precision) -> None:
    """The preload command on random images at the paper's setting: seconds and peak memory of its processes."""
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        for split, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
            for i in range(int(count * share)):
                path = Path(folder, "images", split, f"c{i % 2}", f"{i}.jpg")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(generator.integers(0, 255, (size, size, 3), np.uint8)).save(path)
        command = [
            sys.executable,
            "-m",
            "fpt_ray.preload",
            "--images",
            f"{folder}/images",
            "--workdir",
            folder,
            "--local",
        ]
        command += ["--backbone.weights", "random", "--features.precision", precision]
        started = time.perf_counter()
        peak, largest = _peak_memory(subprocess.Popen(command))
        seconds = time.perf_counter() - started
    print(f"{count} images of {size} px in {seconds:.1f} s, start of Ray included")
    print(f"peak resident memory, all processes: {peak / MIB:.0f} MiB (shared pages counted once)")
    print(f"peak resident memory, largest process: {largest / MIB:.0f} MiB")


def _peak_memory(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """(largest sum of proportional set sizes over a process's tree, largest resident set of one) in bytes."""
    peak = largest = 0
    while process.poll() is None:
        total = 0
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                total += member.memory_full_info().pss
                largest = max(largest, member.memory_info().rss)
            except psutil.Error:
                continue
        peak = max(peak, total)
        time.sleep(0.2)
    return peak, largest
