"""Which question a study answers, and which study it is: kept in its storage from its beginning on."""

import json
import uuid

import optuna

from fpt_ray.config.identity import Identity, difference
from fpt_ray.errors import ConfigError

_ATTRIBUTE = "fpt_ray.identity"


def begin(study: optuna.Study, identity: Identity) -> None:
    """Gives a new study its identity and an id of its own."""
    study.set_user_attr(_ATTRIBUTE, {"id": uuid.uuid4().hex, "identity": json.dumps(dict(identity), sort_keys=True)})


def study_id(study: optuna.Study) -> str:
    """By which a study's storage, its run in MLflow and its folder are known to belong together."""
    return study.user_attrs[_ATTRIBUTE]["id"]


def check_same_question(study: optuna.Study, identity: Identity) -> None:
    """ConfigError, with the field and both values, unless a study was begun with this identity.

    One whose driver died before it had written it holds no trial, and is begun here.
    """
    if _ATTRIBUTE not in study.user_attrs and not study.get_trials(deepcopy=False):
        begin(study, identity)
        return
    name, known = study.study_name, study.user_attrs.get(_ATTRIBUTE)
    remedy = f"start another study and give it this one's front: --study NEW --warm_start {name}"
    if known is None:
        raise ConfigError(f"study {name!r} does not say what it was begun with; {remedy}")
    if differs := difference(json.loads(known["identity"]), identity):
        raise ConfigError(f"study {name!r} answers another question: {differs}; take that back, or {remedy}")
