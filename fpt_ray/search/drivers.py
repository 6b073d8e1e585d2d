"""Several drivers of one study in a database: each says that it lives, takes over from the dead, and waits its turn.

What one driver does while another does the same rests on three things that a database decides: a trial's number is
given once, a waiting trial is begun by one driver, and a running one is closed by one. A trial that runs has a
heartbeat; one whose heartbeat stopped lost its driver. A journal and SQLite have one driver, and need none of this.
"""

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.search.attributes import asked_values, is_turn, purpose_of, turn_attributes
from fpt_ray.storage.files import is_location

_HEARTBEAT_SECONDS = 30
_AGAIN_SECONDS = 1
"""Between two looks at what others do, and before a heartbeat that failed is sent again."""


def heartbeat_seconds() -> int:
    """Seconds between two heartbeats of a trial; after two that did not come, its driver is taken for dead.

    Raises:
        ConfigError: FPT_RAY_HEARTBEAT_SECONDS is no whole number of at least 1.
    """
    given = os.environ.get("FPT_RAY_HEARTBEAT_SECONDS", str(_HEARTBEAT_SECONDS))
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"FPT_RAY_HEARTBEAT_SECONDS is {given!r}; give a whole number of at least 1")
    return int(given)


def open_database(url: str) -> RDBStorage:
    """Optuna's storage in a database. A connection that the server has cut meanwhile is replaced before it is used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are marked so since Optuna 3
        return RDBStorage(
            url,
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=heartbeat_seconds(),
            heartbeat_stale_trial_callback=ask_again,
        )


def may_be_shared(location: str) -> bool:
    """Whether several drivers may search a study at this location: it is in a database, and that is not SQLite."""
    return not is_location(location) and not location.startswith("sqlite")


def _database(study: optuna.Study) -> Any:
    """Optuna's storage of a study in a database; None: it is in a journal, whose one driver needs no heartbeat."""
    storage: Any = study._storage
    storage = getattr(storage, "_backend", storage)
    return storage if isinstance(storage, RDBStorage) else None


# --- alive or dead ------------------------------------------------------------------------------------------------


def beat(study: optuna.Study, trial_ids: Iterable[int]) -> None:
    """Says that these trials run. Optuna does so itself within ``Study.optimize`` only."""
    if (database := _database(study)) is not None:
        for trial_id in trial_ids:
            database.record_heartbeat(trial_id)


@contextlib.contextmanager
def keep_alive(study: optuna.Study, trial_ids: Callable[[], Iterable[int]]) -> Iterator[None]:
    """Says so again and again, from a thread, until the block ends; a database that is away is asked again."""
    ended = threading.Event()

    def beat_on() -> None:
        seconds = heartbeat_seconds()
        wait, away = 0, False
        while not ended.wait(wait):
            try:
                beat(study, trial_ids())
                wait, away = seconds, False
            except Exception as error:  # the database's driver raises what it likes; a dead thread costs the trials
                if not away:
                    say(f"storage: a heartbeat could not be sent ({type(error).__name__}); it is sent again")
                wait, away = _AGAIN_SECONDS, True

    thread = threading.Thread(target=beat_on, daemon=True, name="heartbeat")
    if _database(study) is not None:
        thread.start()
    try:
        yield
    finally:
        ended.set()


def close_lost(study: optuna.Study) -> None:
    """Closes the trials that have lost their heartbeat, and asks them again.

    Of several drivers that look at once, the database lets one close a trial, and that one asks it again.
    """
    if (database := _database(study)) is not None:
        _start_missing_heartbeats(database, study._study_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)


def close_all(study: optuna.Study) -> None:
    """Closes every trial that runs, and asks it again: what a dead driver left, where there is but one at a time."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        ask_again(study, trial)


def ask_again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Has the study propose what a trial stood for once more."""
    if not is_turn(trial):
        study.enqueue_trial(asked_values(trial), user_attrs=purpose_of(trial))


def _start_missing_heartbeats(database: RDBStorage, study_id: int) -> None:
    """Gives a first heartbeat to trials whose driver died before it sent one; Optuna takes these for alive for ever."""
    from optuna.storages._rdb import models  # Optuna imports SQLAlchemy late, and so these

    with database.engine.connect() as connection:
        running = (
            models.TrialModel.__table__.select()
            .outerjoin(models.TrialHeartbeatModel.__table__)
            .with_only_columns(models.TrialModel.trial_id)
            .where(
                models.TrialModel.study_id == study_id,
                models.TrialModel.state == TrialState.RUNNING,
                models.TrialHeartbeatModel.trial_id.is_(None),
            )
        )
        found = list(connection.execute(running).scalars())
    for trial_id in found:
        database.record_heartbeat(trial_id)


# --- one after the other ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def turn(study: optuna.Study) -> Iterator[None]:
    """Lets one driver of a study into the block at a time; where one dies inside, the next follows.

    Who waits holds a running trial with a heartbeat, which is never trained; the lowest number is next.
    """
    if _database(study) is None:
        yield
        return
    ticket = create_trial(state=TrialState.RUNNING, user_attrs=turn_attributes())
    trial_id = study._storage.create_new_trial(study._study_id, template_trial=ticket)
    number = study._storage.get_trial_number_from_id(trial_id)
    with keep_alive(study, lambda: (trial_id,)):
        try:
            while any(other.number < number for other in study.get_trials(deepcopy=False) if _holds_a_turn(other)):
                time.sleep(_AGAIN_SECONDS)
                close_lost(study)
            yield
        finally:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                study._storage.set_trial_state_values(trial_id, TrialState.FAIL)


def _holds_a_turn(trial: FrozenTrial) -> bool:
    return is_turn(trial) and trial.state == TrialState.RUNNING
