"""What a study cost: its ledger, from its trials' runs and its stores."""

import re
from collections.abc import Mapping, Sequence

from fpt_ray.config.space import SearchSpace
from fpt_ray.config.trial import TrialConfig, reads_images
from fpt_ray.cost.prediction import preload_flops, step_flops
from fpt_ray.features.joining import Features
from fpt_ray.features.serving import Stores, feature_bytes, store_for
from fpt_ray.features.spec import bytes_per_row
from fpt_ray.report.ledger import Preloaded, Spent, ledger
from fpt_ray.tracking.records import TrialRecord


def study_ledger(space: SearchSpace, stores: Stores, records: Sequence[TrialRecord]) -> dict[str, float]:
    """The ledger of a study from its trials' runs and the stores that these have asked for."""
    trained = [record for record in records if "fit_seconds" in record.metrics]
    trials = [_spent(space.trial(record.values), stores, record.metrics) for record in trained]
    asked = {store_for(space.trial(record.values), stores).uri for record in records if record.pruned != "infeasible"}
    needs = [(need, store_for(need.trials()[0], stores)) for need in space.stores()]
    needs = [(need, store) for need, store in needs if store.uri in asked]
    flops = sum(preload_flops(need) * len(store) for need, store in needs if not reads_images(need.trial))
    preloaded = {store.uri: _preloaded(store) for _, store in needs}
    return ledger(trials, list(preloaded.values()), flops)


def _preloaded(store: Features) -> Preloaded:
    name = re.sub(r"[^\w.-]", "-", store.spec.name)  # in the name of a metric of MLflow's
    size = len(store) * bytes_per_row(store.spec)
    return Preloaded(name=name, seconds=store.preload_seconds, bytes=size)


def _spent(trial: TrialConfig, stores: Stores, metrics: Mapping[str, float]) -> Spent:
    store = store_for(trial, stores)
    epochs, num_train = metrics["epochs"], store.num_rows("train")
    steps = num_train // trial.training.batch_size
    features, key = trial.features, ()
    if not reads_images(trial):
        key = (store.uri, features.resolution, features.token_ratio, trial.side.depth, trial.side.blocks)
    return Spent(
        fit_seconds=metrics["fit_seconds"],
        data_seconds=metrics["data_seconds"],
        startup_seconds=metrics.get("startup_seconds", 0.0),
        flops=step_flops(trial, store.target.num_outputs) * steps * epochs,
        bytes_read=feature_bytes(trial, store) * (num_train + store.num_rows("val")) * epochs,
        preload=key,
        preload_seconds=store.preload_seconds,
    )
