"""What a study cost, and what its trials took of their machine: from their runs and its stores."""

import json
from collections.abc import Mapping, Sequence

from mlflow import MlflowClient

from fpt_ray.config import ConfigError, TrialConfig, reads_images
from fpt_ray.flops import preload_flops, step_flops
from fpt_ray.ledger import Spent, ledger
from fpt_ray.packing import gpu_share
from fpt_ray.scaling import WHOLE, Trial, Workload, recorded_driver_seconds, recorded_startup_seconds
from fpt_ray.space import SearchSpace
from fpt_ray.store import Store, read_manifest
from fpt_ray.store_spec import Slice
from fpt_ray.tracking import StudyRun, TrialRecord, read_trials
from fpt_ray.trial import feature_bytes, store_for


def study_ledger(space: SearchSpace, stores: Sequence[Store], records: Sequence[TrialRecord]) -> dict[str, float]:
    """The ledger of a study from its trials' runs and its stores."""
    trained = [record for record in records if "fit_seconds" in record.metrics]
    trials = [_spent(space.trial(json.loads(record.tags["proposal"])), stores, record.metrics) for record in trained]
    wide = [trial for trial in space.stores() if not reads_images(trial)]
    flops = sum(preload_flops(trial) * _images(store_for(trial, stores)) for trial in wide)
    used = {store.uri: store for trial in space.stores() for store in (store_for(trial, stores),)}
    return ledger(trials, sum(store.preload_seconds for store in used.values()), flops)


def _images(store: Store) -> int:
    return sum(store.num_rows(split) for split in ("train", "val", "test"))


def _spent(trial: TrialConfig, stores: Sequence[Store], metrics: Mapping[str, float]) -> Spent:
    store = store_for(trial, stores)
    epochs, num_train = metrics["epochs"], store.num_rows("train")
    steps = num_train // trial.training.batch_size
    features, key = trial.features, ()
    if not reads_images(trial):
        key = (store.uri, features.resolution, features.token_ratio, trial.side.depth)
    return Spent(
        fit_seconds=metrics["fit_seconds"],
        data_seconds=metrics["data_seconds"],
        startup_seconds=metrics.get("startup_seconds", 0.0),
        flops=step_flops(trial, len(store.classes)) * steps * epochs,
        bytes_read=feature_bytes(trial, store) * (num_train + store.num_rows("val")) * epochs,
        preload=key,
        preload_seconds=store.preload_seconds,
    )


def recorded_spans(client: MlflowClient, records: Sequence[TrialRecord]) -> list[tuple[float, float]]:
    """When these trials started and ended, in seconds; one that still runs has not ended later than it started."""
    infos = [client.get_run(record.run_id).info for record in records]
    return [(info.start_time / 1e3, (info.end_time or info.start_time) / 1e3) for info in infos]


def recorded_workload(client: MlflowClient, study: StudyRun, gpu_bytes: float, per_gpu: int) -> Workload:
    """What the trials of a finished study and its stores took, those aside left out.

    Raises:
        ConfigError: nothing was trained, or a store is gone.
    """
    records = [one for one in read_trials(client, study) if "fit_seconds" in one.metrics and not one.aside]
    if not records:
        raise ConfigError(f"study {study.name!r} has no trial that was trained; there is nothing to scale")
    spans = recorded_spans(client, records)
    fitted = [record.metrics["fit_seconds"] for record in records]
    startup, worker = recorded_startup_seconds([end - start for start, end in spans], fitted)
    needed = [gpu_share(record.metrics["peak_memory_bytes"], int(gpu_bytes)) for record in records]
    shares = [max(round(WHOLE * share), WHOLE // per_gpu) for share in needed]
    stores = [read_manifest(uri) for uri in json.loads(study.tags["stores"])]
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
    everything = Slice(depth=store.spec.depth, num_kept=store.spec.num_kept)
    return store.column_bytes(store.columns(everything), ("train", "val"))
