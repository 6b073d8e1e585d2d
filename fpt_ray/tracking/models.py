"""Models in MLflow: logged to their trial's run, registered by a name, and fetched by it. Clients are parameters."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.artifacts
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from fpt_ray.display.terminal import without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.tracking.records import StudyRun
from fpt_ray.tracking.server import quiet

SCHEME = "models:/"
CHAMPION = "champion"
"""The alias of the best of a study, by which others ask for it."""
_BUNDLE = "bundle"
_TYPE = "fpt_ray"
_DIGEST = "fpt_ray.bundle_digest"
"""Tag of a model."""
_ANSWERS = "fpt_ray.answers"
"""Tag of a registered version: what its answers are of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A bundle as MLflow serves it: tables with a column of images in, a table out."""

    bundle: Path
    """Its folder on this machine, which is called "bundle"."""
    digest: str
    """What identifies it."""
    code: Path
    """The file of Python that MLflow runs to apply it."""
    example: bytes
    """An image that shows what is taken."""
    outputs: Mapping[str, str]
    """{column: MLflow's name of its type}."""
    requirement: str
    """What has to be installed, as pip takes it."""


def models_of(client: MlflowClient, experiment_id: str, run_id: str) -> list[LoggedModel]:
    """The models of a trial's run, the finished ones first."""
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return sorted(found, key=lambda model: not is_ready(model))


def is_ready(model: LoggedModel) -> bool:
    """Whether all of a model has arrived."""
    return model.status == LoggedModelStatus.READY


def is_of(model: LoggedModel, digest: str) -> bool:
    """Whether all of a model has arrived, and it holds the bundle of this digest."""
    return is_ready(model) and model.tags.get(_DIGEST, digest) == digest


def log_model(client: MlflowClient, study: StudyRun, run_id: str, name: str, served: ServedModel) -> str:
    """Logs a model to the run of its trial, with the trial's numbers, and returns its id.

    Raises:
        MlflowException: the server is away or refuses it; what is left of it is no finished model.
    """
    tags = {_DIGEST: served.digest}
    model = client.create_logged_model(study.experiment_id, name, run_id, tags=tags, model_type=_TYPE)
    with TemporaryDirectory() as folder, quiet():
        _save(served, Path(folder, "model"), run_id, model.model_id)
        client.log_model_artifacts(model.model_id, str(Path(folder, "model")))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.log_batch(run_id, metrics=list(_numbers(client, run_id, model.model_id)))
    return model.model_id


def show_with(client: MlflowClient, run_id: str, model_ids: Sequence[str]) -> None:
    """Has a run show models, those that it does not show yet."""
    outputs = client.get_run(run_id).outputs
    there = {one.model_id for one in outputs.model_outputs} if outputs else set[str]()
    fresh = [LoggedModelOutput(model_id, step=0) for model_id in model_ids if model_id not in there]
    if fresh:
        client.log_outputs(run_id, fresh)


def _save(served: ServedModel, folder: Path, run_id: str, model_id: str) -> None:
    import mlflow.pyfunc  # which warns of its own hints, so here, where that is quiet

    takes: list[ColSpec | TensorSpec] = [
        ColSpec("binary", "image", required=False),
        ColSpec("string", "path", required=False),
    ]
    gives: list[ColSpec | TensorSpec] = [ColSpec(kind, name) for name, kind in served.outputs.items()]
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(served.code),
        artifacts={_BUNDLE: str(served.bundle)},
        signature=ModelSignature(Schema(takes), Schema(gives)),
        input_example=pd.DataFrame({"image": [served.example]}),
        pip_requirements=[served.requirement],
        model_config={"backbone": None},
        mlflow_model=Model(run_id=run_id, model_id=model_id),
    )


def _numbers(client: MlflowClient, run_id: str, model_id: str) -> Iterator[Metric]:
    """The last value of each of a run's numbers, just as it was logged: a run has it once, and so has the model."""
    for name in client.get_run(run_id).data.metrics:
        last = max(client.get_metric_history(run_id, name), key=lambda one: (one.step, one.timestamp))
        yield Metric(name, last.value, last.timestamp, last.step, model_id=model_id)


# --- the registry -------------------------------------------------------------------------------------------------


def register(client: MlflowClient, name: str, model_id: str, run_id: str, answers: str) -> str:
    """Registers a model under a name, as its champion; returns its version. One that is there is not made anew.

    ``answers`` says what its answers are of (task and classes): who asks for the champion of a name gets no other ones.

    Raises:
        ConfigError: MLflow does not take the name, or its champion gives other answers.
    """
    check_model_name(name)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    where = client.get_logged_model(model_id).artifact_location  # a model's id would be looked up at a global address
    versions = client.search_model_versions(f"name = '{name}'")
    others = {one.tags[_ANSWERS] for one in versions if _ANSWERS in one.tags} - {answers}
    if others:
        raise ConfigError(
            f"register: {name!r} holds models of {min(others)}, and this one is of {answers}; give another name",
            fields=("register",),
        )
    found = [one for one in versions if one.source == where]
    tags = {_ANSWERS: answers}
    version = found[0] if found else client.create_model_version(name, where, run_id, tags=tags, model_id=model_id)
    client.set_registered_model_alias(name, CHAMPION, str(version.version))
    return str(version.version)


def check_model_name(name: str) -> None:
    """ConfigError if a model cannot be registered so: it also stands in URIs and queries."""
    if not re.fullmatch(r"\w[\w. -]{0,99}", name):
        raise ConfigError(
            f"register: {name!r} is no name for a model; use 1 to 100 letters, digits, spaces, '_', '-' and '.'",
            fields=("register",),
        )


def fetch_bundle(client: MlflowClient, reference: str, folder: Path) -> Path:
    """The folder below this one with the bundle of ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    It is fetched once: what a version holds does not change.

    Raises:
        ConfigError: there is no such model, or it is none of these.
    """
    name, alias, version = _parts(reference)
    try:
        if alias:
            version = client.get_model_version_by_alias(name, alias).version
        found = client.get_model_version(name, str(version))
        where = found.source or ""
        if where.startswith(SCHEME):  # as MLflow's own pages register it
            where = client.get_logged_model(where.removeprefix(SCHEME)).artifact_location
        kept = folder / f"{name}-{hashlib.sha256(where.encode()).hexdigest()[:12]}"
        if not kept.exists():
            folder.mkdir(parents=True, exist_ok=True)
            uri = f"{where}/artifacts/{_BUNDLE}"
            with TemporaryDirectory(dir=folder) as fresh:
                fetched = mlflow.artifacts.download_artifacts(uri, dst_path=fresh, tracking_uri=client.tracking_uri)
                _move_once(Path(fetched), kept)
    except (MlflowException, OSError) as error:
        reason = without_secrets(str(error), client.tracking_uri).partition("\n")[0]
        raise ConfigError(
            f"model: {reference} cannot be had ({reason}); give a model that `tune --register` or `predict log` "
            "registered, and --tracking_uri or --workdir where it was",
            fields=("tracking_uri",),
        ) from None
    return kept


def _move_once(folder: Path, kept: Path) -> None:
    try:
        folder.rename(kept)
    except OSError:
        if not kept.exists():  # else another process was first, with the same
            raise


def _parts(reference: str) -> tuple[str, str | None, str | None]:
    """(name, alias, version), one of the latter two."""
    found = re.fullmatch(r"models:/([^/@:]+)(?:@([^/@:]+)|/(\d+))", reference)
    if found is None:
        raise ConfigError(f"model is {reference}; give models:/NAME@ALIAS or models:/NAME/VERSION")
    return found[1], found[2], found[3]
