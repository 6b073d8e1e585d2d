"""The bundles of a study as models in MLflow: each logged to the run of its trial, the best registered by a name."""

import io
import shlex
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mlflow import MlflowClient
from PIL import Image

from fpt_ray import __version__
from fpt_ray.display.terminal import say, without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.predict import finding
from fpt_ray.predict.answers import probability_columns
from fpt_ray.storage.files import list_files, read_bytes
from fpt_ray.tracking import models, server
from fpt_ray.tracking.folder import folder_id
from fpt_ray.tracking.records import StudyRun, TrialRecord
from fpt_ray.tracking.runs import find_study, read_trials
from fpt_ray.train.bundle import bundle_digest, read_bundle

_CODE = Path(__file__).with_name("served.py")


def log_study(study_uri: str, tracking_uri: str, register: str | None = None) -> list[str]:
    """Logs the models of a study's bundles that MLflow lacks, and registers the best; what was done, in lines.

    Raises:
        ConfigError: there is no such study, or it has no bundles.
        MlflowException: the server is away; what it has taken, it has.
    """
    name, client = study_uri.rpartition("/")[2], server.open_tracking(tracking_uri)
    study = find_study(client, name, folder_id(study_uri))
    records = {record.number: record for record in read_trials(client, study) if record.complete}
    bundles = {n: folder for n, folder in finding.bundle_folders(study_uri).items() if n in records}
    if not bundles:
        raise ConfigError(f"study {name!r} has no bundles in {study_uri}; give the working directory that has them")
    logged = {number: _logged(client, study, records[number], folder) for number, folder in bundles.items()}
    models.show_with(client, study.run_id, list(logged.values()))
    lines = [f"models: {len(logged)} of study {name} in MLflow, each with the run of its trial"]
    if register is not None:
        best = finding.best_of(bundles.values())
        number = next(number for number, folder in bundles.items() if folder == best)
        target = read_bundle(best).target
        answers = f"{target.task}: {', '.join(target.classes)}"
        version = models.register(client, register, logged[number], records[number].run_id, answers)
        lines.append(f"models: trial {number} is {register} version {version}: models:/{register}@{models.CHAMPION}")
    return lines


def log_study_if_possible(study_uri: str, tracking_uri: str, register: str | None = None) -> None:
    """``log_study`` at the end of a search, which is not lost with MLflow: says what was done, or how it is done."""
    try:
        for line in log_study(study_uri, tracking_uri, register):
            say(line)
    except Exception as error:  # the server, the network, a disk: the bundles are there
        why = without_secrets(f"{type(error).__name__}: {error}", tracking_uri).partition("\n")[0]
        workdir, _, name = study_uri.rpartition("/studies/")
        options = {"workdir": workdir, "register": register}
        if not server.is_usual(tracking_uri, workdir):
            options["tracking_uri"] = without_secrets(tracking_uri)
        given = [word for option, value in options.items() if value is not None for word in (f"--{option}", value)]
        again = shlex.join(["fpt-ray", "predict", "log", name, *given])
        say(f"study {name}: its models could not be logged ({why}); `{again}` does it")


def _logged(client: MlflowClient, study: StudyRun, record: TrialRecord, folder: str) -> str:
    """The id of the model in MLflow of a trial's bundle as it is now; what was left of a half one is removed."""
    there, digest = models.models_of(client, study.experiment_id, record.run_id), bundle_digest(folder)
    for model in there:
        if models.is_of(model, digest):
            return model.model_id
        if not models.is_ready(model):
            client.delete_logged_model(model.model_id)
    name = f"{study.name}-{record.number:04d}".replace(".", "-")  # MLflow takes no dots
    with TemporaryDirectory() as held:
        return models.log_model(client, study, record.run_id, name, _served(folder, Path(held, "bundle")))


def _served(folder: str, copy: Path) -> models.ServedModel:
    """A bundle as MLflow takes it, by way of a copy on this machine."""
    copy.mkdir()
    for name in [file.path for file in list_files(folder) if "/" not in file.path]:  # no pictures of images below it
        (copy / name).write_bytes(read_bytes(f"{folder}/{name}"))
    bundle = read_bundle(str(copy))
    classes = {} if bundle.target.task == "regression" else {"class": "string"}
    numbers = [*probability_columns(bundle.target), "spread", *(["familiarity"] if bundle.familiarity else [])]
    return models.ServedModel(
        bundle=copy,
        digest=bundle_digest(str(copy)),
        code=_CODE,
        example=_example(),
        outputs={
            **classes,
            **dict.fromkeys(numbers, "double"),
            **{point.name: "boolean" for point in bundle.operating_points},
        },
        requirement=f"fpt_ray=={__version__}",
    )


def _example() -> bytes:
    """A grey ramp, as a PNG: of nobody."""
    ramp, sink = np.arange(256, dtype=np.uint8).reshape(16, 16), io.BytesIO()
    Image.fromarray(ramp).save(sink, "PNG")
    return sink.getvalue()
