"""Which question a study answers, and which study it is: kept in its storage from its beginning on."""

import json
import uuid

import optuna
from optuna.trial import TrialState

from fpt_ray.config.identity import Identity, difference
from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import exists, read_bytes, write_once

_ATTRIBUTE = "fpt_ray.identity"
_FILE = "study.json"


def begin(study: optuna.Study, identity: Identity) -> None:
    """Gives a new study its identity and an id of its own."""
    study.set_user_attr(_ATTRIBUTE, {"id": uuid.uuid4().hex, "identity": json.dumps(dict(identity), sort_keys=True)})


def study_id(study: optuna.Study) -> str:
    """By which a study's storage, its run in MLflow and its folder are known to belong together."""
    return study.user_attrs[_ATTRIBUTE]["id"]


def check_same_question(study: optuna.Study, identity: Identity) -> None:
    """ConfigError, with the field and both values, unless a study was begun with this identity."""
    name, known = study.study_name, study.user_attrs.get(_ATTRIBUTE)
    remedy = f"start another study and give it this one's front: --study NEW --warm_start {name}"
    if known is None:
        raise ConfigError(f"study {name!r} does not say what it was begun with; {remedy}")
    if differs := difference(json.loads(known["identity"]), identity):
        raise ConfigError(f"study {name!r} answers another question: {differs}; take that back, or {remedy}")


# --- its folder ---------------------------------------------------------------------------------------------------


def claim_folder(study: optuna.Study, study_uri: str) -> None:
    """Writes the study's id into its folder where trials and pictures will lie, or finds it there.

    Raises:
        ConfigError: the folder is another study's, or the study was begun in another.
    """
    found, own = folder_id(study_uri), study_id(study)
    if found == own:
        return
    if found is not None:
        raise ConfigError(
            f"{study_uri} holds another study of that name; choose another name or workdir", fields=("study", "workdir")
        )
    if any(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False)):
        raise ConfigError(
            f"study {study.study_name!r} was begun in another workdir than {study_uri.rpartition('/studies/')[0]}; "
            "resume it there, where its checkpoints are",
            fields=("workdir",),
        )
    write_once(f"{study_uri}/{_FILE}", json.dumps({"id": own}).encode())


def folder_id(study_uri: str) -> str | None:
    """The id of the study whose folder this is; None where none has begun there."""
    file = f"{study_uri}/{_FILE}"
    return json.loads(read_bytes(file))["id"] if exists(file) else None
