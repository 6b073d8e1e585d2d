"""Which bundle is meant: a folder, a study's best, one of its trials, a run of ``train``, a registered model."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import absolute, exists, list_files, own_folder, read_bytes
from fpt_ray.train.bundle import BUNDLE_FILE, FRONT_FILE
from fpt_ray.train.evaluation import picked_by

BEST = "best"
_REGISTERED = "models:/"


def bundle_named(model: str, workdir: str, tracking_uri: str | None = None) -> str:
    """The folder of the bundle that is meant.

    Args:
        model: the folder of a bundle or of a run of ``train``; a study of the working directory: its best trial by the
            validation score, or, as STUDY:NUMBER, one of its trials; "best", the best of all studies of the working
            directory; or a model of MLflow's registry, models:/NAME@ALIAS or models:/NAME/VERSION, which is fetched.
        workdir: the working directory of the study.
        tracking_uri: MLflow's server or database. Default: its own variable, else the working directory's.

    Raises:
        ConfigError: there is none, or what is best among several studies cannot be said.
    """
    if model.startswith(_REGISTERED):
        return _fetched(model, workdir, tracking_uri)
    for folder in (absolute(model), f"{absolute(model)}/bundle"):
        if exists(f"{folder}/{BUNDLE_FILE}"):
            return folder
    study, _, number = model.partition(":")
    bundles = bundle_folders(f"{absolute(workdir)}/studies/{study}")
    if not bundles and model == BEST:
        return _best_of_all(absolute(workdir))
    if not bundles:
        raise ConfigError(
            f"model: {model} is neither the folder of a bundle nor a study with bundles in {workdir}; give one, or "
            "--workdir"
        )
    if not number:
        return best_of(bundles.values())
    found = bundles.get(int(number)) if re.fullmatch(r"\d+", number) else None
    if found is None:
        names = ", ".join(folder.rpartition("/")[2] for folder in bundles.values())
        raise ConfigError(f"model: {model}: {study} has bundles of {names}; the front's and confirmed trials")
    return found


def bundle_folders(study_uri: str) -> dict[int, str]:
    """{number of a trial: its bundle} of a study, by number."""
    found = re.compile(rf"trial-(\d+)/{re.escape(BUNDLE_FILE)}")
    matches = filter(None, (found.fullmatch(file.path) for file in list_files(f"{study_uri}/bundles")))
    return {int(one[1]): f"{study_uri}/bundles/{one[0].partition('/')[0]}" for one in matches}


def best_of(bundles: Iterable[str]) -> str:
    """The bundle, of these of a study, whose trial has the best validation score; confirmed ones come first.

    What was confirmed has a score over seeds that did not choose it, while the best of many trials of one seed was
    lucky, too. Reports follow the same rule (``report.tested.best_tested``).
    """
    documents = {folder: _document(folder) for folder in bundles}
    return max(documents, key=lambda one: (documents[one].get("confirms") is not None, _score(documents[one])[1]))


def _best_of_all(workdir: str) -> str:
    """The same of all studies of a working directory; every one of their bundles is of a trial that counts.

    Raises:
        ConfigError: there are none, or studies ask for other classes or another score: their numbers do not compare.
    """
    names = {file.path.partition("/")[0] for file in list_files(f"{workdir}/studies") if BUNDLE_FILE in file.path}
    bundles = {name: bundle_folders(f"{workdir}/studies/{name}") for name in sorted(names)}
    best = {name: best_of(folders.values()) for name, folders in bundles.items() if folders}
    if not best:
        raise ConfigError(f"model: {BEST}: no study in {workdir} has bundles; give the folder of one, or --workdir")
    questions = {name: _question(_document(folder)) for name, folder in best.items()}
    if len(set(questions.values())) > 1:
        asked = "; ".join(f"{name}: {question}" for name, question in questions.items())
        raise ConfigError(f"model: {BEST}: the studies of {workdir} do not compare ({asked}); give the study's name")
    return best_of(best.values())


def _document(folder: str) -> dict[str, Any]:
    uri = f"{folder}/{BUNDLE_FILE}"
    try:
        return dict(json.loads(read_bytes(uri)))
    except (ValueError, TypeError) as error:
        raise ConfigError(f"model: {uri} cannot be used ({error}); copy it again, or remove its folder") from None


def _score_of(folder: str) -> float:
    return _score(_document(folder))[1]


def _score(document: Mapping[str, Any]) -> tuple[str, float]:
    """(name, value) of the validation score that the trial itself was picked by; of each of these more is better."""
    target = Target(task=document["task"], classes=tuple(document["classes"]))
    name = picked_by(trial_from(document["trial"]), target)
    return name, document["metrics"][f"val_{name}"]


def _question(document: Mapping[str, Any]) -> str:
    """What a trial's score is of, in words: scores compare where these are the same."""
    classes = ", ".join(document["classes"])
    return f"{_score(document)[0]} of {document['task']} ({classes}), images {document['data']['images_digest'][:12]}"


def bundles_of_front(study: str, workdir: str) -> list[str]:
    """The folders of the bundles that a study's front has, the best by its validation score first.

    Raises:
        ConfigError: there is no such study, or it has not said which of its trials are on its front.
    """
    bundles = f"{absolute(workdir)}/studies/{study}/bundles"
    if not exists(f"{bundles}/{FRONT_FILE}"):
        raise ConfigError(
            f"ensemble is front, but {study} is no study in {workdir} that has said which trials are on its front; "
            "give one, or run its tune again with --resume, which trains nothing that has ended"
        )
    folders = [f"{bundles}/{name}" for name in json.loads(read_bytes(f"{bundles}/{FRONT_FILE}"))]
    return sorted(folders, key=_score_of, reverse=True)


def _fetched(model: str, workdir: str, tracking_uri: str | None) -> str:
    from fpt_ray.tracking import models, server  # with MLflow, which folders need not

    uri = server.tracking_uri(tracking_uri, workdir)
    return str(models.fetch_bundle(server.open_tracking(uri), model, own_folder(f"{absolute(workdir)}/models")))
