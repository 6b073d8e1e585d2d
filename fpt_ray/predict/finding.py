"""Which bundle is meant: a folder, a study's best, one of its trials, a run of ``train``."""

import json
import re

from fpt_ray.config.tasks import Target
from fpt_ray.config.trial import trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import absolute, exists, list_files, read_bytes
from fpt_ray.train.bundle import BUNDLE_FILE, FRONT_FILE
from fpt_ray.train.evaluation import picked_by


def bundle_named(model: str, workdir: str) -> str:
    """The folder of the bundle that is meant.

    Args:
        model: the folder of a bundle or of a run of ``train``, or a study of the working directory: its best trial by
            the validation score, or, as STUDY:NUMBER, one of its trials.
        workdir: the working directory of the study.

    Raises:
        ConfigError: there is none.
    """
    for folder in (absolute(model), f"{absolute(model)}/bundle"):
        if exists(f"{folder}/{BUNDLE_FILE}"):
            return folder
    study, _, number = model.partition(":")
    bundles = f"{absolute(workdir)}/studies/{study}/bundles"
    names = sorted(file.path.partition("/")[0] for file in list_files(bundles) if file.path.endswith(f"/{BUNDLE_FILE}"))
    if not names:
        raise ConfigError(
            f"model: {model} is neither the folder of a bundle nor a study with bundles in {workdir}; give one, or "
            "--workdir"
        )
    if not number:
        return f"{bundles}/{max(names, key=lambda name: _score(f'{bundles}/{name}'))}"
    wanted = f"trial-{int(number):04d}" if re.fullmatch(r"\d+", number) else ""
    if wanted not in names:
        raise ConfigError(
            f"model: {model}: {study} has bundles of {', '.join(names)}; the front's and confirmed trials"
        )
    return f"{bundles}/{wanted}"


def _score(folder: str) -> float:
    """On the validation split, by the score that the trial itself was picked by."""
    document = json.loads(read_bytes(f"{folder}/{BUNDLE_FILE}"))
    target = Target(task=document["task"], classes=tuple(document["classes"]))
    return document["metrics"][f"val_{picked_by(trial_from(document['trial']), target)}"]


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
    return sorted(folders, key=_score, reverse=True)
