"""Where studies are tracked: a database or a server of MLflow's, how it is opened and how a person looks at it."""

import contextlib
import logging
import os
import shlex
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.db.utils import create_sqlalchemy_engine

from fpt_ray.display.terminal import password_in, without_secrets
from fpt_ray.errors import ConfigError
from fpt_ray.storage.files import local_path

_SERVER = ("http://", "https://")
_TRAINING = "workflowType=machine_learning"
"""In an address: MLflow's pages for training, not those for agents."""
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would print a password in it
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its own would hold up whoever waits for minutes before it gives up
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def default_uri(workdir: str | Path) -> str:
    """The database in a working directory.

    Raises:
        ConfigError: that is on S3, where no database can lie.
    """
    folder = local_path(str(workdir))
    if folder is None:
        raise ConfigError(
            f"workdir is {workdir}, where no database can lie; give an MLflow server's address, or "
            "sqlite:///PATH/mlflow.db, as tracking_uri or MLFLOW_TRACKING_URI",
            fields=("tracking_uri",),
        )
    return f"sqlite:///{folder.resolve()}/mlflow.db"


def tracking_uri(given: str | None, workdir: str | Path) -> str:
    """Where studies are tracked: as given, as MLflow's own variable says, or in the working directory."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or default_uri(workdir)


def is_usual(uri: str, workdir: str | Path) -> bool:
    """Whether a study of this working directory is tracked there where none is given."""
    try:
        return uri == tracking_uri(None, workdir)
    except ConfigError:  # on S3
        return False


def ui_command(uri: str) -> str:
    """The one command that opens MLflow's pages on a database, on this machine only; of a server, its address."""
    shown = without_secrets(uri)
    if uri.startswith(_SERVER):
        return shown
    return f"{shlex.quote(sys.executable)} -m mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(shown)}"


def page_address(uri: str, experiment_id: str, run_id: str) -> str:
    """Where a run's page is, once ``ui_command`` runs."""
    return f"{_pages(uri)}/#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING}"


def comparison_address(uri: str, experiment_id: str, run_id: str) -> str:
    """Where the front of a study is compared, by the study's run."""
    return f"{_pages(uri)}/#{comparison_path(experiment_id, run_id)}"


def comparison_path(experiment_id: str, run_id: str) -> str:
    """The same within MLflow's pages: the charts of the view that a report has saved under the run's id."""
    return f"/experiments/{experiment_id}/runs?viewStateShareKey={run_id}&compareRunsMode=CHART&{_TRAINING}"


def _pages(uri: str) -> str:
    return without_secrets(uri).rstrip("/") if uri.startswith(_SERVER) else "http://127.0.0.1:5000"


def open_tracking(uri: str) -> MlflowClient:
    """A client whose database exists with its schema. MLflow's own usage reports to its makers are switched off.

    Raises:
        ConfigError: the database or server cannot be reached, or refuses the login.
    """
    set_mlflows_defaults()
    try:
        if uri.startswith(_SERVER):
            _answers(uri)
        if uri.startswith("sqlite:///"):
            database_path(uri).parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            if uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES:
                _opens(uri)
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except Exception as error:  # each kind of database has its own
        if isinstance(error, MlflowException) and refuses_login(error):
            raise login_refused(uri, error) from None
        reason = f": {without_secrets(str(error), uri).strip().partition(chr(10))[0]}"
        remedy = "give sqlite:///PATH/mlflow.db or an MLflow server's address"
        if set("@/") & set(password_in(uri)):  # libraries take what follows for a host, and print it
            reason, remedy = "", f"{remedy}; in a password, write %40 for @ and %2F for /"
        problem = f"tracking_uri: {without_secrets(uri)} cannot be used ({type(error).__name__}{reason})"
        raise ConfigError(f"{problem}; {remedy}", fields=("tracking_uri",)) from None
    return client


def set_mlflows_defaults() -> None:
    """Sets what the environment does not say of MLflow's reports, prints and retries."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def refuses_login(error: MlflowException) -> bool:
    """Whether a server has answered 401 or 403."""
    return error.get_http_status_code() in (401, 403)


def login_refused(uri: str, error: MlflowException) -> ConfigError:
    """The error of who may not in."""
    reason = without_secrets(str(error), uri).partition("\n")[0]
    return ConfigError(
        f"tracking_uri: {without_secrets(uri)} refuses the login ({error.get_http_status_code()}: {reason}); set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        fields=("tracking_uri",),
    )


def database_path(uri: str) -> Path:
    """The file of an SQLite database."""
    return Path(uri.removeprefix("sqlite:///"))


def _opens(uri: str) -> None:
    """Raises what the database's library does if it cannot be used; MLflow itself would try again for 100 s."""
    engine = create_sqlalchemy_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _answers(uri: str) -> None:
    """Raises OSError if nothing is there; MLflow itself would try again for minutes before it says so."""
    where = urllib.parse.urlsplit(uri)  # urllib takes no password in an address
    server = where._replace(netloc=where.netloc.rpartition("@")[2]).geturl()
    try:
        urllib.request.urlopen(server.rstrip("/") + "/health", timeout=10).close()
    except urllib.error.HTTPError as error:
        error.close()  # it wants a login, which MLflow knows how to give
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # certificates are MLflow's own business
            raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps off the terminal what MLflow says of doing as it should."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
