"""A study's journal on S3: numbered objects, each put only where there is none, so that two drivers cannot both write.

Optuna has journals in files and in Redis only; what an entry says is Optuna's, where it lies is ours.
"""

import json
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from fpt_ray import s3
from fpt_ray.config import ConfigError
from fpt_ray.storage import list_files, read_bytes

_READ_AT_ONCE = 16


class S3Journal(BaseJournalBackend):
    """Optuna's journal below ``s3://bucket/prefix``, one object an entry; a study's trial takes about ten.

    It is read once. From then on its driver knows it all, and a number that is taken when it writes tells that another
    driver has gone on with the study: S3's conditional put decides which of two drivers goes on.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.driver = uuid.uuid4().hex
        self.logs: list[dict[str, Any]] | None = None
        """All entries; None: not read yet."""
        self.objects = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """The entries from a number on.

        Raises:
            ConfigError: one is missing between others.
        """
        if self.logs is None:
            self.logs = self._read()
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Adds entries, durably.

        Raises:
            ConfigError: another driver has written since this one read.
        """
        assert self.logs is not None, "Optuna reads before it writes"
        content = json.dumps({"driver": self.driver, "logs": logs}).encode()
        if not s3.put_once(f"{self.uri}/{_name(self.objects)}", content):
            raise ConfigError(f"another driver goes on with the study at {self.uri}; this one stops")
        self.objects += 1
        self.logs.extend(json.loads(content)["logs"])

    def _read(self) -> list[dict[str, Any]]:
        found = [file.path for file in list_files(self.uri)]
        self.objects = len(found)
        missing = sorted({_name(number) for number in range(len(found))} - set(found))
        if missing:
            raise ConfigError(f"{self.uri}/{missing[0]} is missing, and other entries of the study are there")
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            contents = pool.map(lambda path: json.loads(read_bytes(f"{self.uri}/{path}")), found)
            return [log for content in contents for log in content["logs"]]


def _name(number: int) -> str:
    return f"{number:08d}.json"
