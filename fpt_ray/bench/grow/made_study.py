"""A study of as many trials as one likes, none of which was trained: journal and MLflow hold what a real one's would.

Proposals are drawn at random, and scores follow from them by a formula, so that a front of three objectives grows with
the study.
"""

import contextlib
import math
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna

from fpt_ray.config.dotted import flatten
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.search.identity import study_id
from fpt_ray.search.messages import EpochReport, SeedEpoch, final_metrics, pack_messages, unpack_proposal
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.records import StudyRun, study_tags, trial_tags
from fpt_ray.tracking.server import database_path, default_uri, open_tracking

SPACE = parse_space(
    """
space:
  side.num_prompts: {low: 1, high: 64}
  side.depth: {low: 1, high: 12}
  side.reduction: {choices: [2, 4, 8, 16]}
  side.resolution: {choices: [64, 128, 192]}
  features.token_ratio: {choices: [0.05, 0.1, 0.2]}
  training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
objectives: {val_auc: max, param_ratio: min, memory_ratio: min}
num_trials: 3000
"""
)
NAME = "made"


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeStudy:
    """Where a study is, and its run."""

    workdir: Path
    run: StudyRun
    space: SearchSpace = SPACE

    @property
    def tracking_uri(self) -> str:
        """MLflow's database."""
        return default_uri(str(self.workdir))

    @property
    def location(self) -> str:
        """Its journal."""
        return journal_in(self.workdir)


def journal_in(workdir: Path) -> str:
    """The journal of the study of a working directory."""
    return str(workdir / "studies" / NAME / "optuna.log")


def begin_study(workdir: Path) -> MadeStudy:
    """A new study without trials."""
    study = open_study(SPACE, NAME, journal_in(workdir), resume=False)
    tags = study_tags(SPACE.objectives, [row.name for row in SPACE.rows], "", study_id=study_id(study), constraints={})
    client = open_tracking(default_uri(str(workdir)))
    run = tracking.start_study(client, NAME, params=flatten(SPACE.base()), tags=tags)
    return MadeStudy(workdir=workdir, run=run)


def add_trials(made: MadeStudy, study: optuna.Study, number: int) -> None:
    """Runs so many further trials as a driver does, but for the training.

    The first is told to MLflow by its client, which takes a tenth of a second; the others are copies of its rows.
    """
    client = open_tracking(made.tracking_uri)
    search = StudySearcher(replace(made.space, sampler="random"), study)
    copies: list[dict[str, dict[str, Any]]] = []
    for index in range(number):
        suggested: Any = search.suggest(str(index))
        proposal = unpack_proposal(suggested)
        report = _report(proposal.values)
        search.on_trial_complete(str(index), pack_messages(report))
        params, metrics = flatten(proposal.trial(made.space)), final_metrics(report)
        tags = trial_tags(proposal.values, "", stage=proposal.stage, seeds=proposal.seeds)
        if proposal.number == 0:
            run_id = tracking.start_trial(client, made.run, proposal.number, params, tags)
            tracking.end_trial(client, run_id, "FINISHED", metrics)
        else:
            texts = {name: str(value) for name, value in params.items()}
            numbered = {**tags, "number": str(proposal.number)}
            keyed = {metric_key(name): value for name, value in metrics.items()}
            copies.append({"params": texts, "tags": numbered, "metrics": keyed, "latest_metrics": keyed})
    first = tracking.read_trials(client, made.run)[0]
    _copy_run(database_path(made.tracking_uri), first.run_id, copies)


def _copy_run(database: Path, run_id: str, copies: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """Adds runs like one that is there, each with other values: {table: {key: value}}."""
    named = [(uuid.uuid4().hex, copy) for copy in copies]
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        for table in ("runs", "params", "tags", "metrics", "latest_metrics"):
            found = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,))
            names = [column[0] for column in found.description]
            rows = [dict(zip(names, row, strict=True)) for row in found]
            insert = f"INSERT INTO {table} VALUES ({', '.join(f':{name}' for name in names)})"
            for copy_id, copy in named:
                values = copy.get(table, {})
                filled = [_filled(row, values, copy_id) for row in rows]
                connection.executemany(insert, filled)


def _filled(row: Mapping[str, Any], values: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    value = {"value": values[row["key"]]} if row.get("key") in values else {}
    return {**row, **value, "run_uuid": run_id}


def _report(values: Mapping[str, Any]) -> EpochReport:
    prompts, depth, reduction = values["side.num_prompts"], values["side.depth"], values["side.reduction"]
    size = depth * (prompts + 16) / reduction
    score = 1 - 0.4 / (1 + math.log(size) * values["features.token_ratio"] * values["side.resolution"] / 32)
    score -= 0.02 * abs(math.log10(values["training.learning_rate"]) + 3)
    metrics = {
        "val_auc": score,
        "best_epoch": 1.0,
        "param_ratio": size * 1e-4,
        "memory_ratio": 0.01 + 1e-4 * depth * values["side.resolution"] * (1 + values["features.token_ratio"]),
        "learnable_parameters": round(size * 1e4),
        "peak_memory_bytes": 1e8 + 1e6 * depth * values["side.resolution"] * (1 + values["features.token_ratio"]),
        "train_seconds": 10.0,
        "fit_seconds": 9.0,
        "data_seconds": 0.1,
    }
    return EpochReport(
        epochs=1,
        seeds=(SeedEpoch(repeat=0, epoch=1, train_loss=0.1, val_score_epoch=score, val_score=score),),
        epoch_seconds=9.0,
        finished=True,
        metrics=metrics,
    )
