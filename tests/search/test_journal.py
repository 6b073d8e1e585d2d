"""A study's journal on a real S3 server that fails a fifth of the requests, against Optuna's own journal in a file."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from optuna.trial import TrialState

from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.search.journal import S3Journal, segments_of
from fpt_ray.search.optuna_study import load_study, open_study
from fpt_ray.search.searcher import StudySearcher
from fpt_ray.storage.errors import StorageError
from fpt_ray.storage.files import list_files, read_bytes, remove, write, write_once
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


# --- segments -----------------------------------------------------------------------------------------------------


def entries(start, stop):
    return [{"op_code": 9, "trial_id": number, "system_attr": {"x": number / 7}} for number in range(start, stop)]


def object_of(number):
    return json.dumps({"driver": "x", "logs": entries(number, number + 1)}).encode()


def opened(location):
    journal = S3Journal(str(location))
    return journal, list(journal.read_logs(0))


def written(location, number, journal=None):
    journal = journal or opened(location)[0]
    for entry in entries(len(journal.ends), number):
        journal.append_logs([entry])
    return journal


def segments(location):
    return [file.path for file in list_files(f"{location}.segments")]


@pytest.mark.parametrize("number", [0, 15, 16, 255, 256, 4096 + 256 + 31, 99_999])
def test_segments_are_the_fewest(number):
    found = segments_of(number)
    assert [piece.start for piece in found] == [sum(piece.span for piece in found[:at]) for at in range(len(found))]
    digits = [number // 65_536, *(number // span % 16 for span in (4096, 256, 16))]
    assert [sum(piece.span == span for piece in found) for span in (65_536, 4096, 256, 16)] == digits


def test_what_lies_in_segments_is_not_read_again(server, location):
    """295 = 256 + 2 * 16 + 7 objects: five listings, and two requests of pyarrow's for each piece that is read."""
    written(location, 295)
    assert segments(location)[:2] == ["16/00000000.json", "16/00000016.json"]
    assert "256/00000000.json" in segments(location)
    server.__init__()
    assert opened(location)[1] == entries(0, 295)
    lists, reads = server.seen.pop(f"GET /{BUCKET}"), len(server.seen)
    assert (lists, reads) == (5, 2 * (1 + 2 + 7))
    assert not any(name.endswith("/optuna.log/00000000.json") for name in server.seen)


def test_a_hundred_thousand_entries_are_opened_with_under_200_requests(server, location):
    """The segments as the journal's own code puts them; of the objects in them a thousand are there, which would take
    another listing. 100,015 = 65,536 + 8 * 4,096 + 6 * 256 + 10 * 16 + 15, so that 1 + 8 + 6 + 10 + 15 are read."""
    journal, number = opened(location)[0], 100_015
    journal.logs, journal.ends = entries(0, number), list(range(1, number + 1))
    journal._compact()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda at: write_once(f"{location}/{at:08d}.json", object_of(at)), range(number - 1016, number)))
    server.__init__()
    second, found = opened(location)
    assert found == entries(0, number)
    lists, reads = server.seen.pop(f"GET /{BUCKET}"), len(server.seen)  # a request that took too long is made again
    assert (lists, reads) == (5, 2 * 40)
    server.__init__()
    second.append_logs(entries(number, number + 1))
    path = location.removeprefix("s3://")
    assert list(server.seen) == [f"PUT /{path}/00100015.json", f"PUT /{path}.segments/16/00100000.json"]


def test_a_journal_of_an_earlier_release_is_read_and_gets_its_segments_from_its_next_driver(location, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(S3Journal, "_compact", lambda self: None)
        written(location, 40)
    assert segments(location) == []
    journal, found = opened(location)
    assert found == entries(0, 40)
    assert segments(location) == []  # who only reads writes nothing
    written(location, 41, journal)
    assert segments(location) == ["16/00000000.json", "16/00000016.json"]
    assert opened(location)[1] == entries(0, 41)


@pytest.mark.parametrize("killed_at", range(10, 36))
def test_a_kill_between_any_two_requests_leaves_nothing_wrong(tmp_path, monkeypatch, killed_at):
    """Below a local folder. The driver dies before its put of that number; then one reads, and another goes on."""
    puts = []

    def put(uri, content):
        if len(puts) == killed_at:
            raise KeyboardInterrupt
        puts.append(uri)
        write_once(uri, content)

    with monkeypatch.context() as patch:
        patch.setattr("fpt_ray.search.journal.write_once", put)
        with pytest.raises(KeyboardInterrupt):
            written(tmp_path, 100)
    objects = sum("segments" not in uri for uri in puts)
    assert opened(tmp_path)[1] == opened(tmp_path)[1] == entries(0, objects)
    written(tmp_path, 100)
    assert opened(tmp_path)[1] == entries(0, 100)
    assert segments(tmp_path) == [f"16/{start:08d}.json" for start in range(0, 96, 16)]


def test_a_gap_between_segments_is_read_from_their_objects(tmp_path):
    written(tmp_path, 100)
    remove(f"{tmp_path}.segments", ["16/00000032.json"])
    assert opened(tmp_path)[1] == entries(0, 100)
    remove(str(tmp_path), ["00000040.json"])
    with pytest.raises(ConfigError, match=r"00000040\.json is missing"):
        opened(tmp_path)


def test_a_driver_that_was_overtaken_notices_beyond_segments_too(location):
    first = written(location, 20)
    written(location, 40)
    with pytest.raises(ConfigError, match="another driver goes on"):
        first.append_logs(entries(20, 21))
    assert opened(location)[1] == entries(0, 40)


def test_a_segment_that_s3_does_not_take_costs_no_entry_and_is_put_later(tmp_path, monkeypatch):
    def put(uri, content):
        if "segments" in uri:
            raise StorageError("away")
        write_once(uri, content)

    with monkeypatch.context() as patch:
        patch.setattr("fpt_ray.search.journal.write_once", put)
        journal = written(tmp_path, 20)
    assert (segments(tmp_path), opened(tmp_path)[1]) == ([], entries(0, 20))
    written(tmp_path, 21, journal)
    assert segments(tmp_path) == ["16/00000000.json"]


def test_another_releases_segment_is_left_and_a_short_one_is_refused(tmp_path):
    place = f"{tmp_path}.segments/16/00000000.json"
    journal = written(tmp_path, 15)
    write(place, json.dumps({"objects": [[entry] for entry in entries(0, 16)]}, indent=1).encode())
    written(tmp_path, 17, journal)
    assert read_bytes(place).count(b"\n") > 16
    assert opened(tmp_path)[1] == entries(0, 17)
    write(place, json.dumps({"objects": [[entry] for entry in entries(0, 15)]}).encode())
    with pytest.raises(ConfigError, match="holds 15 objects; it was written with 16"):
        opened(tmp_path)
