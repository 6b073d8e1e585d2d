"""Several drivers of one study, without a cluster: two searchers with storages of their own on a real PostgreSQL.

Compared with the study's plan: its number of trials, each point of a grid once, whoever dies in between.
"""

import threading
import time

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from ray.tune.search import Searcher

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.attributes import finished_trials
from fpt_ray.search.drivers import beat, close_lost, keep_alive, turn
from fpt_ray.search.journal import one_driver
from fpt_ray.search.messages import unpack_proposal
from fpt_ray.search.optuna_study import open_study
from fpt_ray.search.queue import enqueue_chosen, enqueue_grid
from fpt_ray.search.searcher import StudySearcher
from tests.messages import report
from tests.postgres import postgres

GRID = """
space: {side.depth: {choices: [2, 4, 6]}, training.learning_rate: {choices: [1.0e-4, 1.0e-3]}}
sampler: grid
"""
CHOSEN = GRID + "choose: [training.learning_rate]\n"
SPACE = parse_space(
    "space: {side.depth: {low: 1, high: 12}, side.prompt_dropout: {low: 0.0, high: 0.5}}\nnum_trials: 6"
)
STALE = "update trial_heartbeats set heartbeat = heartbeat - interval '1 hour' where trial_id = {}"


@pytest.fixture(scope="module")
def url():
    with postgres() as found:
        yield found


def execute(study, text):
    with study._storage._backend.engine.begin() as connection:
        return connection.execute(sqlalchemy.text(text))


def drivers(url, request, text, count=2, num_trials=None):
    space = parse_space(text) if isinstance(text, str) else text
    name = request.node.name
    studies = [open_study(space, name, url, resume=at > 0) for at in range(count)]
    for study in studies:
        request.addfinalizer(study._storage._backend.engine.dispose)  # type: ignore[attr-defined]
    return [StudySearcher(space, study, num_trials=num_trials) for study in studies]


def end(driver, trial_id, auc=0.8):
    driver.on_trial_complete(trial_id, report(val_auc=auc))


def suggest(driver, trial_id):
    driver.rests_until = driver.looks_at = 0.0
    return driver.suggest(trial_id)


def lose(driver, trial_id):
    """As if the driver of a trial had died an hour ago."""
    (trial,) = driver.trials.pop(trial_id)
    execute(driver.study, STALE.format(trial._trial_id))
    return trial


def test_two_drivers_together_run_the_number_of_trials(url, request):
    one, two = drivers(url, request, SPACE, num_trials=6)
    for number in range(3):
        first, second = (unpack_proposal(suggest(which, f"{name}{number}")) for name, which in (("a", one), ("b", two)))
        assert first.number != second.number
    assert suggest(one, "a3") is suggest(two, "b3") is None  # six run
    for number in range(3):
        end(one, f"a{number}")
    assert suggest(one, "a4") is None  # it waits for the other's
    for number in range(3):
        end(two, f"b{number}")
    assert suggest(one, "a5") == suggest(two, "b5") == Searcher.FINISHED
    assert finished_trials(one.study) == 6


def test_drivers_that_ask_at_the_same_moment_run_none_too_many(url, request):
    searchers = drivers(url, request, SPACE, count=4, num_trials=6)
    barrier = threading.Barrier(4)

    def drive(at):
        barrier.wait()
        for number in range(200):
            suggested = suggest(searchers[at], f"{at}-{number}")
            if suggested == Searcher.FINISHED:
                return
            if suggested is not None:
                end(searchers[at], f"{at}-{number}")
            time.sleep(0.01)

    threads = [threading.Thread(target=drive, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finished_trials(searchers[0].study) == 6
    assert not searchers[0].study.get_trials(states=(TrialState.RUNNING,))


def test_a_dead_drivers_point_is_run_by_the_other_which_looks_as_long_as_it_searches(url, request):
    """The other was there before the first died, and has run all that waited."""
    one, two = drivers(url, request, GRID, num_trials=6)
    suggest(one, "lost")
    for number in range(5):
        suggest(two, str(number))
        end(two, str(number))
    assert suggest(two, "early") is None  # the first may yet end it
    assert not two.is_done()
    lost = lose(one, "lost")
    again = unpack_proposal(suggest(two, "again"))
    assert again.values == lost.params
    end(two, "again")
    assert suggest(two, "end") == Searcher.FINISHED
    done = [trial.params for trial in two.study.get_trials(states=(TrialState.COMPLETE,))]
    assert sorted(sorted(one.items()) for one in done) == sorted(sorted(one.items()) for one in two.space.grid())


def test_a_dead_drivers_trial_without_a_heartbeat_is_lost_too(url, request):
    (one,) = drivers(url, request, SPACE, count=1)
    suggest(one, "a")
    (trial,) = one.trials["a"]
    execute(one.study, f"delete from trial_heartbeats where trial_id = {trial._trial_id}")
    close_lost(one.study)
    execute(one.study, STALE.format(trial._trial_id))
    close_lost(one.study)
    assert [found.state for found in one.study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_of_drivers_that_look_at_once_one_asks_a_dead_trial_again(url, request):
    searchers = drivers(url, request, SPACE, count=4)
    suggest(searchers[0], "a")
    lose(searchers[0], "a")
    barrier = threading.Barrier(4)
    threads = [
        threading.Thread(target=lambda study=searcher.study: (barrier.wait(), close_lost(study)))
        for searcher in searchers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [trial.state for trial in searchers[0].study.get_trials()] == [TrialState.FAIL, TrialState.WAITING]


def test_a_live_drivers_trials_are_left_alone(url, request):
    one, two = drivers(url, request, SPACE)
    suggest(one, "runs")
    close_lost(two.study)
    assert [trial.state for trial in two.study.get_trials()] == [TrialState.RUNNING]


def test_what_two_drivers_enqueue_at_once_is_run_once(url, request):
    one, two = drivers(url, request, CHOSEN, num_trials=6)
    for number in range(6):
        suggest(one, str(number))
        end(one, str(number), 0.5 + 0.01 * number)
    enqueue_chosen(one.space, one.study)
    for trial in two.study.get_trials(states=(TrialState.WAITING,)):  # as if the other had not yet seen these
        two.study.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=trial.user_attrs)
    assert enqueue_chosen(two.space, two.study) == 3
    enqueue_grid(two.space, two.study)
    finals = []
    for number in range(3):
        for driver, trial_id in ((one, f"a{number}"), (two, f"b{number}")):
            suggested = suggest(driver, trial_id)
            if isinstance(suggested, dict):
                finals.append(unpack_proposal(suggested))
                end(driver, trial_id)
    assert [final.stage for final in finals] == ["final"] * 3
    assert len({str(final.values) for final in finals}) == 3
    assert suggest(one, "x") == suggest(two, "x") == Searcher.FINISHED


def test_a_trial_that_was_taken_for_dead_ends_no_search(url, request, capsys):
    (one,) = drivers(url, request, SPACE, count=1)
    disowned = {}
    one.disowned = disowned.__setitem__
    suggest(one, "a")
    execute(one.study, STALE.format(one.trials["a"][0]._trial_id))
    close_lost(one.study)
    end(one, "a")
    assert list(disowned) == [0]
    assert "took its driver for dead" in capsys.readouterr().err
    assert finished_trials(one.study) == 0


def test_heartbeats_go_on_after_a_failure(url, request, monkeypatch, capsys):
    (one,) = drivers(url, request, SPACE, count=1)
    suggest(one, "a")
    trial_id = one.trials["a"][0]._trial_id
    monkeypatch.setattr("fpt_ray.search.drivers._AGAIN_SECONDS", 0.05)
    backend, failures = one.study._storage._backend, [OSError("away")] * 2
    sent = threading.Event()

    def record(trial):
        if failures:
            raise failures.pop()
        sent.set()

    monkeypatch.setattr(backend, "record_heartbeat", record)
    with keep_alive(one.study, lambda: [trial_id]):
        assert sent.wait(10)
    assert capsys.readouterr().err.count("could not be sent (OSError)") == 1


def test_a_connection_that_the_server_has_cut_is_replaced(url, request):
    (one,) = drivers(url, request, SPACE, count=1)
    other = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with other.connect() as connection:
        cut = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
        connection.execute(sqlalchemy.text(cut))
    other.dispose()
    assert len(one.study.get_trials()) == 1


def test_drivers_take_turns_and_a_dead_ones_passes(url, request, monkeypatch):
    monkeypatch.setattr("fpt_ray.search.drivers._AGAIN_SECONDS", 0.05)
    one, two = drivers(url, request, SPACE)
    seen = []

    def second():
        with turn(two.study):
            seen.append("second")

    with turn(one.study):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.5)
        seen.append("first")
    thread.join(20)
    assert seen == ["first", "second"]
    attributes = {"turn": True}
    dead = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attributes)
    trial_id = one.study._storage.create_new_trial(one.study._study_id, template_trial=dead)
    beat(one.study, [trial_id])
    execute(one.study, STALE.format(trial_id))
    with turn(two.study):
        seen.append("third")
    waiting = one.study.get_trials(states=(TrialState.WAITING, TrialState.RUNNING))
    assert [trial.number for trial in waiting] == [0]  # the paper's point; no turn is asked again


def test_sqlite_has_one_driver_at_a_time(tmp_path):
    url = f"sqlite:///{tmp_path}/optuna.db"
    with one_driver(url), pytest.raises(ConfigError, match="PostgreSQL or MySQL"), one_driver(url):
        pass
    one = StudySearcher(SPACE, open_study(SPACE, "s", url, resume=False))
    one.suggest("lost")
    again = open_study(SPACE, "s", url, resume=True)  # no other can be alive
    assert [trial.state for trial in again.get_trials()] == [TrialState.FAIL, TrialState.WAITING]
