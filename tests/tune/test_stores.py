"""Of a space with two resolutions each store is made when a trial first asks for it; on a real Ray cluster of one node.

Numbers are compared with those of a study whose resolution is fixed, MLflow's runs with Optuna's storage.
"""

import json
import re
from pathlib import Path

import pytest
from optuna.trial import TrialState

from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.tune import stores
from fpt_ray.tune.options import StudyOptions
from fpt_ray.tune.study import run_study
from tests.searches import finished_in, study_of

pytestmark = pytest.mark.usefixtures("cluster")
FIXED = {
    "backbone.name": "vit_tiny_patch16_224",
    "backbone.weights": "random",
    "features.token_ratio": 0.3,
    "side.depth": 1,
    "side.reduction": 4,
    "side.resolution": 32,
    "training.epochs": 1,
    "training.batch_size": 8,
}
PROMPTS = {"side.num_prompts": {"choices": [2, 4]}}
BOTH = {"features.resolution": {"choices": [96, 112]}, **PROMPTS}


def options(folder, images, space, *, fixed=(), **more):
    """Of a study in a working directory of its own."""
    file = folder / "space.yaml"
    file.write_text(json.dumps({"space": space, "fixed": {**FIXED, **dict(fixed)}, "sampler": "grid", **more}))
    return {"space": str(file), "images": images, "workdir": str(folder), "study": "s"}


def made_in(folder):
    """The resolutions of the stores that are there."""
    return sorted(int(re.findall(r"(\d+)px", path.name)[0]) for path in Path(folder).glob("features/*"))


def records_in(folder):
    client = open_tracking(default_uri(str(folder)))
    study = tracking.find_study(client, "s")
    return client, study, tracking.read_trials(client, study)


@pytest.fixture
def makings(monkeypatch):
    """[(resolution, those there before, trials that had ended)] of each store as it is made."""
    found, make = [], stores.preload_table

    def noted(inspection, need, model, workdir, hardware):
        ended = finished_in(Path(workdir, "studies/s/optuna.log"))
        found.append((need.trial.features.resolution, made_in(workdir), ended))
        return make(inspection, need, model, workdir, hardware)

    monkeypatch.setattr(stores, "preload_table", noted)
    return found


def test_a_store_is_made_when_a_trial_first_asks_for_it(images, makings, tmp_path, capsys):
    run_study(StudyOptions(**options(tmp_path, images, BOTH)))
    said = capsys.readouterr().err
    assert makings == [(96, [], 0), (112, [96], 2)]
    first, second = re.findall(r"store (\S+): 60 images, 0.0\d GB; made when a trial first asks", said)
    order = [
        rf"store {second}: 60 images, 0.0\d GB; made",
        f"trial 0 is the first to ask for the store {first}",
        rf"store {second}: 60 images, 0.0\d GB, about \d+ s of preloading; made",
        "trial 2/4",
        f"trial 2 is the first to ask for the store {second}",
        "trial 3/4",
    ]
    places = [re.search(text, said).start() for text in order]
    assert places == sorted(places)
    client, study, records = records_in(tmp_path)
    assert [record.params["features.resolution"] for record in records] == ["96", "96", "112", "112"]
    assert [Path(uri).name for uri in study.stores] == [first, second]
    attached = {Path(file.path).stem for file in client.list_artifacts(study.run_id, "features")}
    assert attached == {first, second}
    seconds = {name: value for name, value in study.ledger.items() if name.startswith("store_seconds.")}
    assert set(seconds) == {f"store_seconds.{first}", f"store_seconds.{second}"}
    assert study.ledger["preload_seconds"] == pytest.approx(sum(seconds.values()))
    assert study.ledger["separate_preloads"] == 2
    numbers = {record.params["side.num_prompts"]: record.metrics for record in records[2:]}
    (alone := tmp_path / "alone").mkdir()
    run_study(StudyOptions(**options(alone, images, PROMPTS, fixed={"features.resolution": 112})))
    assert made_in(alone) == [112]
    assert "trial first asks" not in capsys.readouterr().err
    for record in records_in(alone)[2]:
        for name in ("val_auc", "test_auc", "param_ratio", "peak_memory_bytes"):
            assert record.metrics[name] == numbers[record.params["side.num_prompts"]][name]


def test_a_store_that_no_trial_asks_for_is_never_made(images, makings, tmp_path):
    run_study(StudyOptions(**options(tmp_path, images, BOTH, sampler="tpe"), num_trials=1))
    assert makings == [(112, [], 0)]  # the nearest to the paper's
    assert made_in(tmp_path) == [112]
    _, study, _ = records_in(tmp_path)
    assert len(study.stores) == 1
    assert sum(name.startswith("store_bytes.") for name in study.ledger) == 1


def test_a_trial_that_waits_for_its_store_is_asked_again_after_its_driver_died(images, makings, tmp_path, monkeypatch):
    command = options(tmp_path, images, BOTH)
    with monkeypatch.context() as patch:
        make = stores.preload_table

        def dies(inspection, need, *given):
            if need.trial.features.resolution == 112:
                raise KeyboardInterrupt
            return make(inspection, need, *given)

        patch.setattr(stores, "preload_table", dies)
        with pytest.raises(KeyboardInterrupt):
            run_study(StudyOptions(**command))
    journal = tmp_path / "studies/s/optuna.log"
    held = study_of(journal, "s").trials[2]
    assert (held.state, held.params["features.resolution"]) == (TrialState.RUNNING, 112)
    assert made_in(tmp_path) == [96]
    makings.clear()
    run_study(StudyOptions(**command, resume=True, read="disk"))
    assert makings == [(96, [96], 2), (112, [96], 2)]  # the one that is there is opened
    ended = [trial for trial in study_of(journal, "s").trials if trial.state == TrialState.COMPLETE]
    assert {tuple(trial.params.values()) for trial in ended} == {(96, 2), (96, 4), (112, 2), (112, 4)}
    assert len(ended) == 4
    client, study, records = records_in(tmp_path)
    assert [record.status for record in records] == ["FINISHED"] * 4
    assert all("test_auc" in record.metrics for record in records)
    assert len(study.stores) == 2
    assert client.get_run(study.run_id).info.status == "FINISHED"
