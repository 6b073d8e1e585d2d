"""A study's journal on a real S3 server that fails a fifth of the requests, against Optuna's own journal in a file."""

import pytest
from optuna.trial import TrialState

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.journal import S3Journal
from fpt_ray.search.optuna_study import load_study, open_study
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.storage.files import remove
from tests.messages import report
from tests.s3_server import BUCKET, served

SPACE = parse_space("space: {side.num_prompts: {low: 1, high: 64}}\nobjectives: {val_auc: max}\nnum_trials: 6")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, served(tmp_path_factory.mktemp("s3"), patch) as faults:
        yield faults


@pytest.fixture
def location(server, request):
    server.__init__()
    yield f"s3://{BUCKET}/{request.node.name}/optuna.log"
    server.__init__()


def told(study, finished):
    """What a search tells its study: some trials finished, one left running."""
    search = StudySearcher(SPACE, study)
    for number in range(finished):
        search.suggest(str(number))
        search.on_trial_complete(str(number), report(val_auc=0.5 + number / 100))
    search.suggest("running")
    return search


def trials(study):
    kept = ("number", "state", "values", "params", "user_attrs")
    return [{name: getattr(trial, name) for name in kept} for trial in study.get_trials()]


def test_through_faults_it_holds_what_a_file_holds(server, location, tmp_path):
    file = str(tmp_path / "optuna.log")
    server.share, server.seed = 0.2, 3
    for place in (location, file):
        told(open_study(SPACE, "s", place, resume=False), 3)
    resumed = {place: open_study(SPACE, "s", place, resume=True) for place in (location, file)}
    assert trials(resumed[location]) == trials(resumed[file])
    assert [trial.state for trial in resumed[location].get_trials()] == [
        *3 * [TrialState.COMPLETE],
        TrialState.FAIL,
        TrialState.WAITING,
    ]
    assert trials(load_study("s", location)) == trials(resumed[file])
    assert sum(server.made[fault] for fault in ("500", "503", "reset", "cut", "hang")) > 5


def test_of_two_drivers_the_one_that_resumes_goes_on(location):
    first = told(open_study(SPACE, "s", location, resume=False), 1)
    second = told(open_study(SPACE, "s", location, resume=True), 1)
    with pytest.raises(ConfigError, match="another driver goes on with the study at s3://"):
        first.suggest("next")
    assert second.suggest("next") is not None


def test_a_second_study_of_the_name_is_refused(location):
    with pytest.raises(ConfigError, match="is not there"):
        open_study(SPACE, "s", location, resume=True)
    open_study(SPACE, "s", location, resume=False)
    with pytest.raises(ConfigError, match=r"exists .*; resume it"):
        open_study(SPACE, "s", location, resume=False)


def test_an_entry_that_is_missing_is_noticed(location):
    told(open_study(SPACE, "s", location, resume=False), 1)
    remove(location, ["00000003.json"])
    with pytest.raises(ConfigError, match=r"optuna\.log/00000003\.json is missing"):
        load_study("s", location)


def test_its_driver_reads_on_what_it_has_written(tmp_path):
    """Below a local folder, where an object is a file and a name is taken once, too."""
    first, then = [{"number": 0}], [{"number": 1}, {"number": 2}]
    journal = S3Journal(str(tmp_path))
    assert list(journal.read_logs(0)) == []
    journal.append_logs(first)
    journal.append_logs(then)
    assert journal.read_logs(1) == S3Journal(str(tmp_path)).read_logs(1) == then
