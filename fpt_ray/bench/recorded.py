"""A finished study as a workload: what its trials and its preloading took, from what was stored."""

from collections.abc import Sequence

from fpt_ray.bench.scaling import WHOLE, Trial, Workload, recorded_driver_seconds, recorded_startup_seconds
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import row_bytes
from fpt_ray.features.spec import everything
from fpt_ray.features.store import Store, read_manifest
from fpt_ray.report.result import StudyResult
from fpt_ray.tracking.records import TrialRecord
from fpt_ray.tune.resources import gpu_share


def recorded_spans(records: Sequence[TrialRecord]) -> list[tuple[float, float]]:
    """When these trials started and ended, in seconds; one that still runs has not ended later than it started."""
    return [(record.started_s, record.ended_s or record.started_s) for record in records]


def recorded_workload(result: StudyResult, gpu_bytes: float, per_gpu: int) -> Workload:
    """What the trials of a finished study and its stores took, auxiliary ones left out.

    Raises:
        ConfigError: nothing was trained, or a store is gone.
    """
    records = [one for one in result.trials if "fit_seconds" in one.metrics and not one.auxiliary]
    if not records:
        raise ConfigError(f"study {result.name!r} has no trial that was trained; there is nothing to scale")
    spans = recorded_spans(records)
    fitted = [record.metrics["fit_seconds"] for record in records]
    startup, worker = recorded_startup_seconds([end - start for start, end in spans], fitted)
    needed = [gpu_share(record.metrics["peak_memory_bytes"], int(gpu_bytes)) for record in records]
    shares = [max(round(WHOLE * share), WHOLE // per_gpu) for share in needed]
    stores = [read_manifest(uri) for uri in result.places.stores]
    shards = [shard for store in stores for shard in store.shards]
    timed = [shard for shard in shards if shard.seconds]  # of an interrupted preload, some are not
    return Workload(
        trials=tuple(Trial(fit_seconds=fit, share=share) for fit, share in zip(fitted, shares, strict=True)),
        startup_seconds=startup,
        worker_seconds=worker,
        driver_seconds=recorded_driver_seconds(spans),
        feature_bytes=sum(_shared_bytes(store) for store in stores),
        shard_rows=tuple(shard.rows for shard in shards),
        image_seconds=sum(shard.seconds for shard in timed) / max(1, sum(shard.rows for shard in timed)),
    )


def _shared_bytes(store: Store) -> int:
    return row_bytes(store.spec, everything(store.spec)) * store.num_rows
