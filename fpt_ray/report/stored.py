"""What lies beside a run in MLflow, read."""

import tempfile
from pathlib import Path

from mlflow import MlflowClient


def stored_text(client: MlflowClient, run_id: str, name: str) -> str | None:
    """The text of a file at the top of a run's artifacts; None: there is none of that name."""
    if name not in {file.path for file in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
