"""Images of a shard in, features of a shard out: decoding in Ray tasks, the frozen LPM in Ray actors."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from jaxtyping import UInt8
from tqdm.auto import tqdm

from fpt_ray.cluster import require_resources, run_on_workers, working_hosts
from fpt_ray.config.trial import TrialConfig
from fpt_ray.errors import ConfigError
from fpt_ray.features.shards import ShardEntry, adopted, shard_table, write_shard
from fpt_ray.features.spec import StoreSpec, image_column
from fpt_ray.images.decoding import decode
from fpt_ray.images.pixels import normalise, resize
from fpt_ray.images.table import ImageRow, content_hashes
from fpt_ray.models.backbone import resolve_precision
from fpt_ray.models.device import compute_device
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.importance import Extracted, extract
from fpt_ray.storage.errors import ExistsError
from fpt_ray.storage.files import read_bytes

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens the LPM sees at once, over the images of a batch: on a CPU larger tensors cost more in page faults than they
save, on a GPU they keep it busy."""
_READING_CPUS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """The images of one shard and where it goes."""

    uri: str
    path: str
    images: tuple[ImageRow, ...]
    """In the order of their content hashes."""


Holder = tuple[Any]
"""A reference to the LPM, or to None where images alone are stored; in a tuple, since Ray replaces a bare reference by
its value."""


def share_model(model: Any) -> Holder:
    """Puts the LPM where all hosts find it."""
    return (ray.put(model),)


def write_shards(holder: Holder, spec: StoreSpec, todo: Sequence[ShardPlan], root: str) -> Iterator[ShardEntry]:
    """Decode and resize in tasks, the LPM in actors, one shard a row; yields what is written as it comes.

    Raises:
        ConfigError: no host has room for an actor; an image or a shard fails.
    """
    actors, cpus, gpus = lpm_actors(working_hosts())
    require_resources("an actor that runs the LPM", cpus=cpus, gpus=gpus)
    require_resources("reading images", cpus=_READING_CPUS, gpus=0)
    plans = ray.data.from_items([{"plan": plan} for plan in todo], override_num_blocks=len(todo))
    shards = plans.map(partial(_read_shard, root=root, spec=spec), num_cpus=_READING_CPUS).map_batches(
        ShardWriter,
        fn_constructor_kwargs={"holder": holder, "spec": spec, "threads": actor_threads(cpus)},
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    with tqdm(total=sum(len(plan.images) for plan in todo), unit="image", desc="preload", mininterval=1) as progress:
        for row in shards.iter_rows():
            if row["error"]:
                raise ConfigError(row["error"])
            entry = ShardEntry(**json.loads(row["entry"]))
            progress.update(entry.rows)
            yield entry


def lpm_actors(hosts: Sequence[Mapping[str, float]]) -> tuple[int, float, float]:
    """(number, CPUs each, GPUs each) of the actors that run the LPM on these hosts; each has room on any of them.

    There is one per GPU, with a quarter of the CPUs that the host with the fewest has for each of its GPUs. Without
    GPUs there is one per host, over all CPUs of the smallest but one. Tasks that read images have the rest.
    """
    gpus = sum(int(host.get("GPU", 0)) for host in hosts)
    if gpus:
        return gpus, min(host.get("CPU", 0) / host["GPU"] for host in hosts) / 4, 1.0
    cores = [int(host["CPU"]) for host in hosts]
    return len(cores), max(0.5, min(cores, default=1) - 1), 0.0


def actor_threads(cpus: float) -> int:
    """Threads of an actor that holds so many CPUs."""
    return max(1, round(cpus + 0.5))


def lpm_precision(trial: TrialConfig, hardware: Hardware) -> str:
    """The type that the LPM computes in, as a trial asks for it, on the hardware of the workers that run it."""
    return str(resolve_precision(trial.features.precision, hardware)).removeprefix("torch.")


def measured_seconds(holder: Holder, spec: StoreSpec, root: str, image: ImageRow) -> float:
    """Seconds that an actor takes for an image, by one that is read and extracted on a worker as an actor does it.

    The worker's memory is free again afterwards.
    """
    _, cpus, gpus = lpm_actors(working_hosts())
    measure = partial(_seconds_here, holder, spec, root, image, actor_threads(cpus))
    ((_, seconds),) = run_on_workers({"image": measure}, {"image": {"CPU": cpus, "GPU": gpus}})
    return seconds


def _seconds_here(holder: Holder, spec: StoreSpec, root: str, image: ImageRow, threads: int) -> float:
    """A task; the second time counts, when all is warm. Ray ends the process of a task that held a GPU."""
    writer = ShardWriter(holder, spec, threads)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        high, _ = read_image(root, image, spec)
        if writer.model is not None:
            extract_batches(writer.model, high[None], spec)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def read_image(root: str, image: ImageRow, spec: StoreSpec) -> tuple[np.ndarray, list[np.ndarray]]:
    """I_h and, down-sampled from it (section 3.3), each I_l.

    Raises:
        ConfigError: the file is gone, cannot be decoded, or is another than when it was inspected.
    """
    uri = f"{root}/{image.path}"
    try:
        data = read_bytes(uri)
    except FileNotFoundError:
        raise ConfigError(f"{uri} is gone; put it back, or take it out of the image table") from None
    if hashlib.sha256(data).hexdigest() != image.sha256:
        raise ConfigError(f"{uri} is another image than the table says by its sha256; inspect the images again")
    high = resize(decode(data, uri), spec.resolution)
    return high, [high if low == spec.resolution else resize(high, low) for low in spec.low_resolutions]


def _read_shard(row: dict[str, Any], root: str, spec: StoreSpec) -> dict[str, Any]:
    """A task: all images of one shard, at both resolutions."""
    try:
        images = [read_image(root, image, spec) for image in row["plan"].images]
    except (ConfigError, OSError) as error:
        nothing = np.zeros(0, np.uint8)
        return {**row, "high_res": nothing, **dict.fromkeys(_low_names(spec), nothing), "error": f"{error}"}
    high_res = np.stack([high for high, _ in images]) if spec.blocks else np.zeros(0, np.uint8)
    low_res = {name: np.stack([low[at] for _, low in images]) for at, name in enumerate(_low_names(spec))}
    return {**row, "high_res": high_res, **low_res, "error": ""}


def _low_names(spec: StoreSpec) -> list[str]:
    return [image_column(resolution) for resolution in spec.low_resolutions]


class ShardWriter:
    """A Ray Data actor: it holds the LPM, extracts a shard's features and writes it whole or not at all."""

    def __init__(self, holder: Holder, spec: StoreSpec, threads: int) -> None:
        torch.set_num_threads(threads)
        loaded: Any = ray.get(holder[0])
        self.model = loaded if loaded is None else loaded.to(compute_device())
        self.spec = spec

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """The manifest's entry of the shard of a batch's one row, as JSON, or what kept it from being written."""
        plan: ShardPlan = batch["plan"][0]
        if batch["error"][0]:
            return {"entry": [""], "error": [batch["error"][0]]}
        started = time.perf_counter()
        try:
            features = None if self.model is None else extract_batches(self.model, batch["high_res"][0], self.spec)
            low_res = [batch[name][0] for name in _low_names(self.spec)]
            table = shard_table(plan.images, low_res, features, self.spec)
            entry = write_or_adopt(plan, table, self.spec)
        except ConfigError as error:
            return {"entry": [""], "error": [str(error)]}
        except OSError as error:
            message = f"{plan.uri} cannot be written ({error}); free space and start again, finished shards are kept"
            return {"entry": [""], "error": [message]}
        entry = dataclasses.replace(entry, seconds=round(time.perf_counter() - started, 3))
        return {"entry": [json.dumps(dataclasses.asdict(entry))], "error": [""]}


def write_or_adopt(plan: ShardPlan, table: pa.Table, spec: StoreSpec) -> ShardEntry:
    """Writes a shard, or takes the one that another preload of the same store wrote first."""
    try:
        return write_shard(plan.uri, table, spec)
    except ExistsError:
        found = adopted(plan.uri, spec)
        if found is None or not np.array_equal(found[1], content_hashes(plan.images)):
            raise
        return found[0]


@torch.no_grad()
def extract_batches(model: Any, images: UInt8[np.ndarray, "B R R 3"], spec: StoreSpec) -> Extracted:
    """Features of any number of high-resolution images, in batches of a size that follows from the resolution alone."""
    step = max(1, _BATCH_TOKENS.get(compute_device().type, 2048) // spec.num_tokens)
    parts = [
        extract_images(model, torch.from_numpy(images[start : start + step]), spec)
        for start in range(0, len(images), step)
    ]
    keys, values, tokens = (torch.cat([part[kind] for part in parts], dim=1) for kind in range(3))  # type: ignore[misc]
    summaries = torch.cat([part.summaries for part in parts if part.summaries is not None], dim=2)
    return Extracted(keys, values, tokens, summaries)


def extract_images(model: Any, images: UInt8[torch.Tensor, "B R R 3"], spec: StoreSpec) -> Extracted:
    """Features of one batch, in the stored type, on the CPU."""
    inputs = normalise(images.to(next(model.parameters()).device), spec.mean, spec.std)
    found = extract(
        model, inputs, blocks=spec.blocks, num_kept=spec.num_kept, importance=spec.importance, summarised=True
    )
    assert found.summaries is not None
    keys, values, summaries = (
        kind.to(getattr(torch, spec.dtype)).cpu() for kind in (found.keys, found.values, found.summaries)
    )
    return Extracted(keys, values, found.tokens.cpu(), summaries)
