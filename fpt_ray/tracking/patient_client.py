"""Writing to an MLflow server that may be slow, be away for a while, or refuse: its clients' writes wait for none."""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
)
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList
from typing_extensions import override

from fpt_ray.display.terminal import without_secrets
from fpt_ray.tracking import outbox
from fpt_ray.tracking.outbox import AwayError, Line, Outbox, RefusedError
from fpt_ray.tracking.server import login_refused, refuses_login, set_mlflows_defaults

_Answer = TypeVar("_Answer")
_LOCAL_ID = "local_id"
"""Tag of a run: the id that it has for its driver."""
_LONGEST_REASON = 200


class PatientClient(MlflowClient):
    """A client whose writes of runs are handed to a thread; what it reads, it reads once all of them have arrived.

    What is not delivered yet lies in the file ``waiting`` (see ``Outbox``); what the server refuses for good, in
    ``mlflow_refused.jsonl`` beside it. A run has an id of our own, which all calls understand, until the server has
    made it. A refused login is a ConfigError until the server has let this client write, and later the server is away.
    """

    def __init__(self, tracking_uri: str, waiting: Path, patience_seconds: float = 600) -> None:
        set_mlflows_defaults()
        # It logs, with all of its traceback, what it raises too.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        super().__init__(tracking_uri=tracking_uri)
        self.patience_seconds = patience_seconds
        self.run_ids: dict[str, str] = {}
        """{id of our own: the server's}"""
        self.welcome = False
        """Whether the server has let this client write."""
        receiver = "the MLflow server" if tracking_uri.startswith("http") else "the MLflow database"
        self.outbox = Outbox(receiver, waiting, waiting.with_name("mlflow_refused.jsonl"), self._send)

    def settle(self, patience_seconds: float | None = None) -> None:
        """Waits until the server has taken all. The patience is for each line, and by default the client's.

        Raises:
            ConfigError: it has taken none for so long, what waits is kept; or it refuses the login.
        """
        self.outbox.settle(self.patience_seconds if patience_seconds is None else patience_seconds)

    def close(self) -> None:
        """Ends delivery; what still waits is left to the next driver."""
        self.outbox.close()

    # --- writes ---------------------------------------------------------------------------------------------------

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Run:
        """A new run, with an id of our own."""
        local = uuid.uuid4().hex
        start_time = start_time or int(time.time() * 1000)
        values = {"experiment_id": experiment_id, "start_time": start_time, "tags": tags or {}, "run_name": run_name}
        self._write("create_run", local, **values)
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

    @override
    def log_inputs(self, run_id: str, datasets: Any = None, models: Any = None) -> None:
        """Data sets that a run has read, without models."""
        values = [[dict(one.dataset), [[tag.key, tag.value] for tag in one.tags]] for one in datasets or ()]
        self._write("log_inputs", run_id, datasets=values)

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        """Ends a run."""
        end_time = end_time or int(time.time() * 1000)
        self._write("set_terminated", run_id, status=status, end_time=end_time)

    def _write(self, name: str, run_id: str, **values: Any) -> None:
        # Once all is delivered the file is gone, and with it what would tell the next driver our own ids.
        self.outbox.add(lambda: json.dumps([name, self._known(run_id), self._with_known(values)]))

    def _known(self, run_id: str) -> str:
        """The server's id, if the server has made the run."""
        return self.run_ids.get(run_id, run_id)

    def _with_known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a write; tags that are ids of runs are known ones."""
        tags = {"tags": {key: self._known(value) for key, value in values["tags"].items()}} if "tags" in values else {}
        return {**values, **tags}

    # --- what waits for the server ----------------------------------------------------------------------------------

    @override
    def get_run(self, run_id: str) -> Run:
        """A run, by the server's id."""
        return self._ask(lambda: super(PatientClient, self).get_run(self._known(run_id)))

    @override
    def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
        """All values of a run's metric."""
        return self._ask(lambda: super(PatientClient, self).get_metric_history(self._known(run_id), key))

    @override
    def search_runs(self, *query: Any, **options: Any) -> PagedList[Run]:
        """As MLflow's; ids in it are the server's."""
        return self._ask(lambda: super(PatientClient, self).search_runs(*query, **options))

    @override
    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """As MLflow's."""
        return self._ask(lambda: super(PatientClient, self).get_experiment_by_name(name))

    @override
    def create_experiment(self, *settings: Any, **options: Any) -> str:
        """As MLflow's."""
        return self._ask(lambda: super(PatientClient, self).create_experiment(*settings, **options))

    @override
    def update_run(self, run_id: str, status: str | None = None, name: str | None = None) -> None:
        """As MLflow's."""
        self._ask(lambda: super(PatientClient, self).update_run(self._known(run_id), status, name))
        self.welcome = True

    @override
    def log_artifact(self, run_id: str, local_path: str, artifact_path: str | None = None) -> None:
        """As MLflow's."""
        self._ask(lambda: super(PatientClient, self).log_artifact(self._known(run_id), local_path, artifact_path))

    @override
    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        """As MLflow's."""
        self._ask(lambda: super(PatientClient, self).log_text(self._known(run_id), text, artifact_file))

    def _ask(self, asked: Callable[[], _Answer]) -> _Answer:
        """The server's answer, once all has arrived; asked again while it is away."""
        deadline = time.monotonic() + self.patience_seconds
        while True:
            self.settle()
            try:
                return asked()
            except MlflowException as error:
                judged = self._judged(error)
                if isinstance(judged, RefusedError):
                    raise
                if not isinstance(judged, AwayError):
                    raise judged from None
                if time.monotonic() > deadline:
                    raise self.outbox.given_up(self.patience_seconds) from None
            time.sleep(min(outbox.PAUSE_SECONDS, self.patience_seconds))

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _send(self, line: Line) -> None:
        name, run_id, values = json.loads(line.text)
        run_id = self._known(run_id)
        try:
            if name == "create_run":
                self._create(run_id, again=line.again, **values)
            elif name == "log_batch":
                metrics = [Metric(*one) for one in values["metrics"]]
                super().log_batch(run_id, metrics, [Param(*one) for one in values["params"]])
            elif name == "log_inputs":
                read = [
                    DatasetInput(Dataset(**one), [InputTag(*tag) for tag in tags]) for one, tags in values["datasets"]
                ]
                super().log_inputs(run_id, read)
            elif name == "set_tag":
                super().set_tag(run_id, values["key"], values["value"])
            else:
                super().set_terminated(run_id, values["status"], values["end_time"])
        except MlflowException as error:
            raise self._judged(error) from error
        self.welcome = True

    def _create(
        self, local: str, *, again: bool, experiment_id: str, start_time: int, tags: Mapping[str, str], run_name: str
    ) -> None:
        """Makes the run of this id, unless the server has made it already."""
        found: list[Run] = []
        if again:
            found = super().search_runs([experiment_id], f"tags.{_LOCAL_ID} = '{local}'", max_results=1)
        if not found:
            tags = {**self._with_known({"tags": tags})["tags"], _LOCAL_ID: local}
            found = [super().create_run(experiment_id, start_time, tags, run_name)]
        self.run_ids[local] = found[0].info.run_id

    def _judged(self, error: MlflowException) -> Exception:
        """Whether trying again may help: nobody answered, not MLflow did, or it has a trouble of its own."""
        reason = without_secrets(str(error), self.tracking_uri).partition("\n")[0][:_LONGEST_REASON]
        if refuses_login(error):
            return AwayError(reason) if self.welcome else login_refused(self.tracking_uri, error)
        status = error.get_http_status_code()
        elsewhere = error.error_code == "ENDPOINT_NOT_FOUND"  # a proxy's 404
        lost = getattr(error.__cause__, "connection_invalidated", False)  # a database's connection
        return AwayError(reason) if status >= 500 or status == 429 or elsewhere or lost else RefusedError(reason)
