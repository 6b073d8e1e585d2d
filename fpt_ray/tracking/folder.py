"""The folder of a study, which bears the id of the one study that it belongs to."""

import json

from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import exists, read_bytes, write_once

_FILE = "study.json"


def claim_folder(study_uri: str, study_id: str, *, begun: bool) -> None:
    """Writes a study's id into the folder where its trials and pictures will lie, or finds it there.

    ``begun``: the study has trials already.

    Raises:
        ConfigError: the folder is another study's, or the study was begun in another folder.
    """
    found = folder_id(study_uri)
    if found == study_id:
        return
    if found is not None:
        raise ConfigError(
            f"{study_uri} holds another study of that name; choose another name or workdir", fields=("study", "workdir")
        )
    if begun:
        raise ConfigError(
            f"the study was begun in another workdir than that of {study_uri}; resume it where its checkpoints are",
            fields=("workdir",),
        )
    write_once(f"{study_uri}/{_FILE}", json.dumps({"id": study_id}).encode())


def folder_id(study_uri: str) -> str | None:
    """The id of the study whose folder this is; None where none has begun there."""
    file = f"{study_uri}/{_FILE}"
    return json.loads(read_bytes(file))["id"] if exists(file) else None
