"""The test split, read once when a search has ended: for the front's members, or for what was confirmed alone."""

import json
import statistics
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from fpt_ray.config.space import SearchSpace
from fpt_ray.display.terminal import say
from fpt_ray.features.serving import store_for
from fpt_ray.features.store import Store
from fpt_ray.metrics.intervals import bootstrap_aucs, interval
from fpt_ray.metrics.scores import auc
from fpt_ray.report.confirmation import confirming, reference
from fpt_ray.report.front import front_of
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.runs import TrialRecord
from fpt_ray.train.best import predictions_of_best, scores_of_best
from fpt_ray.train.checkpoint import load_checkpoint
from fpt_ray.tune.log import StudyLog


def score_front(log: StudyLog, space: SearchSpace, stores: Sequence[Store]) -> None:
    """Test scores, once, after the search: of the front's members, or of all rows of a grid.

    Nothing reads test data before.
    """
    records = tracking.read_trials(log.client, log.study)
    if space.sampler == "grid":
        shown = [record for record in records if record.status == "FINISHED" and not record.auxiliary]
    else:
        shown = front_of(records, space.objectives)
    for record in shown:
        if "test_auc" in record.metrics:
            continue
        trial = space.trial(json.loads(record.tags["proposal"]))
        checkpoint = load_checkpoint(record.tags["checkpoint"])
        found = scores_of_best(trial, store_for(trial, stores), "test", checkpoint)
        for name in ("auc", "accuracy", "kappa"):
            values = [getattr(scores, name) for scores in found]
            log.client.log_metric(record.run_id, f"test_{name}", statistics.fmean(values))
            if len(values) > 1:
                log.client.log_metric(record.run_id, f"test_{name}_std", statistics.stdev(values))
        if len(found) > 1:
            for run_id, scores in zip(tracking.seed_runs(log.client, log.study, record), found, strict=True):
                log.client.log_metric(run_id, "test_auc", scores.auc)
    what = "rows" if space.sampler == "grid" else "front"
    say(f"{what}: {len(shown)} of {log.ended} trials, test scores computed once")


def score_confirmed(log: StudyLog, space: SearchSpace, stores: Sequence[Store]) -> None:
    """Test scores of the trials that confirm others.

    They are the mean over the new seeds, and 95 % intervals of it and of the difference from the best of them by
    validation AUC. Where nothing new was confirmed, nothing is read.
    """
    records = confirming(tracking.read_trials(log.client, log.study))
    if all("test_auc" in record.metrics for record in records):
        return
    best = reference(records)
    found = {record.run_id: _test_samples(log, record, space, stores) for record in records}
    for record in records:
        own, (samples, labels) = found[record.run_id], found[best.run_id]
        if record is not best and np.array_equal(own[1], labels):  # else the stores hold other images
            low, high = interval(own[0] - samples)
            log.client.log_metric(record.run_id, "difference_low", low)
            log.client.log_metric(record.run_id, "difference_high", high)
    say(f"confirmed: {len(records)} of {log.ended} trials, test split read for these alone")


def _test_samples(
    log: StudyLog, record: TrialRecord, space: SearchSpace, stores: Sequence[Store]
) -> tuple[Float[np.ndarray, " R"], Int[np.ndarray, " N"]]:
    """Bootstrap samples of a trial's test AUC, and the labels they rest on; logs what is of this trial alone."""
    trial = space.trial(json.loads(record.tags["proposal"]))
    store = store_for(trial, stores)
    checkpoint = load_checkpoint(record.tags["checkpoint"])
    probabilities, labels = predictions_of_best(trial, store, "test", checkpoint)
    aucs = [auc(one, labels, store.classes) for one in probabilities]
    samples = bootstrap_aucs([probabilities], labels)[0]
    low, high = interval(samples)
    numbers = {"test_auc": statistics.fmean(aucs), "test_auc_low": low, "test_auc_high": high}
    if len(aucs) > 1:
        numbers["test_auc_std"] = statistics.stdev(aucs)
        for run_id, score in zip(tracking.seed_runs(log.client, log.study, record), aucs, strict=True):
            log.client.log_metric(run_id, "test_auc", score)
    for name, value in numbers.items():
        log.client.log_metric(record.run_id, name, value)
    return samples, labels
