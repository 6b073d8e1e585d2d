"""Writing to an MLflow server that may be away for a while: what it cannot take now waits in a file of the driver's."""

import json
import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunData, RunInfo
from mlflow.exceptions import MlflowException
from typing_extensions import override

from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.storage.errors import disk_full_as_error
from fpt_ray.storage.local import append

_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""MLflow's own would hold up the search for minutes before it gives up."""
_PAUSE_SECONDS = 5.0
_LOCAL_ID = "local_id"
"""Tag of a run that was begun while the server was away."""


class PatientClient(MlflowClient):
    """A client whose writes of runs never fail because the server is away; reads do.

    Once a write has failed, it and all later ones are kept, in order, in the file ``waiting``, until the server takes
    them again: tried at most every few seconds, and when ``settle`` is called. A driver that dies in between leaves the
    file to the next one of the study.
    """

    def __init__(self, tracking_uri: str, waiting: Path) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        # It logs, with all of its traceback, what it raises too.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        super().__init__(tracking_uri=tracking_uri)
        self.waiting = waiting
        self.run_ids: dict[str, str] = {}
        """{id given while the server was away: the server's}"""
        self.delivered = 0
        self.next_try = 0.0

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Run:
        """A new run; while the server is away it has an id of our own, which the other writes understand."""
        local = uuid.uuid4().hex
        start_time = start_time or int(time.time() * 1000)
        values = {"experiment_id": experiment_id, "start_time": start_time, "tags": tags, "run_name": run_name}
        run = self._write("create_run", local, **values)
        if run is not None:
            return run
        info = RunInfo(local, experiment_id, "", "RUNNING", start_time, None, LifecycleStage.ACTIVE, run_name=run_name)
        return Run(info, RunData())

    @override
    def log_batch(
        self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = (), synchronous: bool | None = None
    ) -> None:
        """Metrics and parameters of a run; tags are not sent, ``set_tag`` does that."""
        values = [[one.key, one.value, one.timestamp, one.step] for one in metrics]
        self._write("log_batch", run_id, metrics=values, params=[[one.key, one.value] for one in params])

    @override
    def log_metric(
        self,
        run_id: str,
        key: str,
        value: float,
        timestamp: int | None = None,
        step: int | None = None,
        synchronous: bool | None = None,
        dataset_name: str | None = None,
        dataset_digest: str | None = None,
        model_id: str | None = None,
    ) -> None:
        """One metric of a run, without a data set or a model that it belongs to."""
        self.log_batch(run_id, [Metric(key, value, timestamp or int(time.time() * 1000), step or 0)])

    @override
    def set_tag(self, run_id: str, key: str, value: Any, synchronous: bool | None = None) -> None:
        """One tag of a run."""
        self._write("set_tag", run_id, key=key, value=value)

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        """Ends a run."""
        end_time = end_time or int(time.time() * 1000)
        self._write("set_terminated", run_id, status=status, end_time=end_time)

    def settle(self, patience_seconds: float = 600) -> None:
        """Waits until the server has taken all.

        Raises:
            ConfigError: it has not within the patience; what waits is kept.
        """
        deadline = time.monotonic() + patience_seconds
        while self.waiting.exists():
            self.next_try = 0.0
            if self._deliver():
                return
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"the MLflow server has been away for {patience_seconds:.0f} s; what it lacks is kept in "
                    f"{self.waiting}: bring the server back and resume the study",
                    fields=("resume",),
                )
            time.sleep(min(_PAUSE_SECONDS, patience_seconds))

    def _write(self, name: str, run_id: str, **values: Any) -> Any:
        if not self.waiting.exists() or self._deliver():
            try:
                return self._send(name, run_id, values)
            except MlflowException as error:
                if not _is_away(error):
                    raise
                remote = self.tracking_uri.startswith("http")
                trouble = "server is away" if remote else "database cannot be written"
                say(f"the MLflow {trouble}; from now on, what it lacks waits in {self.waiting}")
                self.next_try = time.monotonic() + _PAUSE_SECONDS
        with disk_full_as_error(self.waiting):
            self.waiting.parent.mkdir(parents=True, exist_ok=True)
            append(self.waiting, (json.dumps([name, run_id, values]) + "\n").encode())
        return None

    def _deliver(self) -> bool:
        """Sends what waits, in order, and returns whether all of it has arrived.

        The file stands until then: it tells which runs stand for our own ids, and to send a line twice changes nothing.
        """
        if time.monotonic() < self.next_try:
            return False
        lines = self.waiting.read_text(encoding="utf-8").splitlines()
        for line in lines[self.delivered :]:
            try:
                name, run_id, values = json.loads(line)
            except ValueError:
                break  # the last line of a driver that died while it wrote it
            try:
                self._send(name, run_id, values)
            except MlflowException as error:
                if not _is_away(error):
                    raise
                self.next_try = time.monotonic() + _PAUSE_SECONDS
                return False
            self.delivered += 1
        self.waiting.unlink()
        say(f"the MLflow server is back and has taken the {self.delivered} lines that waited")
        self.delivered = 0
        return True

    def _send(self, name: str, run_id: str, values: Mapping[str, Any]) -> Any:
        run_id = self.run_ids.get(run_id, run_id)
        if name == "create_run":
            return self._create(run_id, **values)
        if name == "log_batch":
            metrics = [Metric(*one) for one in values["metrics"]]
            return super().log_batch(run_id, metrics, [Param(*one) for one in values["params"]])
        if name == "set_tag":
            return super().set_tag(run_id, values["key"], values["value"])
        return super().set_terminated(run_id, values["status"], values["end_time"])

    def _create(self, local: str, experiment_id: str, start_time: int, tags: Mapping[str, str], run_name: str) -> Run:
        """The run of this id: an answer may have been lost, or a driver have died, after the server made it."""
        if self.waiting.exists():
            found = self.search_runs([experiment_id], f"tags.{_LOCAL_ID} = '{local}'", max_results=1)
            if found:
                self.run_ids[local] = found[0].info.run_id
                return found[0]
        known = {key: self.run_ids.get(value, value) for key, value in tags.items()}
        run = super().create_run(experiment_id, start_time, {**known, _LOCAL_ID: local}, run_name)
        self.run_ids[local] = run.info.run_id
        return run


def _is_away(error: MlflowException) -> bool:
    """Whether trying again may help: nobody answered, or the server has a trouble of its own."""
    return error.get_http_status_code() >= 500
