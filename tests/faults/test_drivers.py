"""Several real drivers, each with its own Ray, of one study on a real PostgreSQL: together they run what was planned.

What they leave is compared with the plan, MLflow with Optuna's storage.
"""

import contextlib
import os
import signal
import time
from collections import Counter

import optuna
import pytest
from optuna.trial import TrialState

from fpt_ray.search.attributes import is_turn
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.names import metric_key
from fpt_ray.tracking.server import default_uri, open_tracking
from tests.postgres import postgres
from tests.searches import driver, tune_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GRID = """
space: {side.num_prompts: {choices: [2, 4]}, side.depth: {choices: [1, 2]}}
fixed:
  backbone.name: vit_tiny_patch16_224
  backbone.weights: random
  features.resolution: 96
  features.token_ratio: 0.3
  side.reduction: 4
  side.resolution: 64
  training.epochs: 2
  training.batch_size: 8
objectives: {val_auc: max, param_ratio: min}
sampler: grid
"""


@pytest.fixture
def url():
    with postgres() as found:
        yield found


@contextlib.contextmanager
def trials_of(url, name):
    """What the storage holds of a study, asked anew at each call; nothing where it has not begun."""
    storage = optuna.storages.RDBStorage(url)

    def trials():
        if name not in optuna.get_all_study_names(storage):
            return []
        storage.remove_session()
        found = optuna.load_study(study_name=name, storage=storage).get_trials()
        return [trial for trial in found if not is_turn(trial)]

    try:
        yield trials
    finally:
        storage.engine.dispose()


def wait_for(condition, processes, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() in (None, 0) for process in processes)
        time.sleep(0.2)


def started(stack, command, said, **environment):
    settings = {"FPT_RAY_HEARTBEAT_SECONDS": "2", "OMP_NUM_THREADS": "1", **environment}
    return stack.enter_context(driver(command, said, **settings))


def test_four_drivers_run_the_number_of_trials_together(url, store, tmp_path):
    with contextlib.ExitStack() as stack:
        trials = stack.enter_context(trials_of(url, "four"))
        command = tune_command(store, tmp_path, "four", 6)
        first = started(stack, command, tmp_path / "said-0", FPT_RAY_STORAGE=url)
        wait_for(trials, [first])
        resumed = [*command, "--resume"]
        others = [started(stack, resumed, tmp_path / f"said-{n}", FPT_RAY_STORAGE=url) for n in (1, 2, 3)]
        wait_for(lambda: all(process.poll() == 0 for process in (first, *others)), (first, *others), 700)
        found = trials()
    assert Counter(trial.state for trial in found)[TrialState.COMPLETE] == 6
    assert not [trial for trial in found if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    told(tmp_path, "four", [trial for trial in found if trial.state == TrialState.COMPLETE])


def test_sigkill_of_one_of_two_drivers(url, store, tmp_path):
    """Every point of the grid is run to its end once, those of the dead driver by the other."""
    (tmp_path / "grid.yaml").write_text(GRID)
    with contextlib.ExitStack() as stack:
        trials = stack.enter_context(trials_of(url, "two"))
        command = tune_command(store, tmp_path, "two", 4)
        command[command.index("--space") + 1] = str(tmp_path / "grid.yaml")
        first = started(stack, command, tmp_path / "said-0", FPT_RAY_STORAGE=url)
        wait_for(trials, [first])
        second = started(stack, [*command, "--resume"], tmp_path / "said-1", FPT_RAY_STORAGE=url)
        wait_for(lambda: any(trial.state == TrialState.RUNNING for trial in trials()), [first, second])
        os.killpg(first.pid, signal.SIGKILL)
        wait_for(lambda: second.poll() == 0, [second], 700)
        found = trials()
    complete = [trial for trial in found if trial.state == TrialState.COMPLETE]
    points = Counter(tuple(sorted(trial.params.items())) for trial in complete)
    assert len(points) == 4
    assert set(points.values()) == {1}
    assert not [trial for trial in found if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    told(tmp_path, "two", complete)


def told(workdir, name, complete):
    """MLflow holds each trial that counts as Optuna does, ended, and what is shown has its test score."""
    client = open_tracking(default_uri(workdir))
    records = tracking.read_trials(client, tracking.find_study(client, name))
    ended = {record.number: record for record in records if record.complete}
    assert sorted(ended) == [trial.number for trial in complete]
    assert all(record.status != "RUNNING" for record in records)
    for trial in complete:
        record = ended[trial.number]
        assert [record.metrics["val_auc"], record.metrics["param_ratio"]] == trial.values
        history = client.get_metric_history(record.run_id, metric_key("test_auc"))
        assert len(history) <= 1  # the test split is read once
    assert any("test_auc" in record.metrics for record in ended.values())
