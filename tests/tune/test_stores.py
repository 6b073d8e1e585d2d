"""Of a space with two resolutions each store is made when a trial first asks for it; on a real Ray cluster of one node.

Numbers are compared with those of a study whose resolution is fixed, MLflow's runs with Optuna's storage.
"""

import contextlib
import io
import json
import re
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Making:
    """What was there when a store was to be made."""

    resolution: int
    stores: list[int]
    ended: int
    """Trials."""


def noting(found, dies_at=None):
    """``preload_table``, which notes what was there before it, and at one resolution lets the driver die."""
    make = stores.preload_table

    def noted(inspection, need, model, workdir, hardware):
        resolution = need.trial.features.resolution
        ended = finished_in(Path(workdir, "studies/s/optuna.log"))
        found.append(Making(resolution=resolution, stores=made_in(workdir), ended=ended))
        if resolution == dies_at:
            raise KeyboardInterrupt
        return make(inspection, need, model, workdir, hardware)

    return noted


@pytest.fixture(scope="module")
def stopped(cluster, images, tmp_path_factory):
    """(folder, makings, what was said) of a grid over two resolutions; its driver dies as it makes the second store."""
    folder, found, said = tmp_path_factory.mktemp("study"), [], io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(stores, "preload_table", noting(found, dies_at=112))
        with pytest.raises(KeyboardInterrupt):
            run_study(StudyOptions(**options(folder, images, BOTH)))
    return folder, found, said.getvalue()


@pytest.mark.slow
def test_a_store_is_made_when_a_trial_first_asks_for_it(stopped):
    _, found, said = stopped
    assert found == [
        Making(resolution=96, stores=[], ended=0),
        Making(resolution=112, stores=[96], ended=2),
    ]
    first, second = re.findall(r"store (\S+): 60 images, [\d.]+ GB; made when a trial first asks", said)
    order = [
        rf"store {second}: 60 images, [\d.]+ GB; made",
        f"trial 0 is the first to ask for the store {first}",
        rf"store {second}: 60 images, [\d.]+ GB, about \d+ s of preloading; made",
        "trial 2/4",
        f"trial 2 is the first to ask for the store {second}",
    ]
    places = [re.search(text, said).start() for text in order]
    assert places == sorted(places)


@pytest.fixture(scope="module")
def resumed(stopped, images):
    """(folder, what the dead driver's trials were, makings) of the same study, resumed to its end."""
    folder, found = stopped[0], []
    left = study_of(folder / "studies/s/optuna.log", "s").trials
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "preload_table", noting(found))
        run_study(StudyOptions(**options(folder, images, BOTH), resume=True))
    return folder, left, found


@pytest.mark.slow
def test_a_trial_that_waits_for_its_store_is_asked_again_after_its_driver_died(resumed):
    folder, left, found = resumed
    assert (left[2].state, left[2].params["features.resolution"]) == (TrialState.RUNNING, 112)
    assert found == [  # the first is opened
        Making(resolution=96, stores=[96], ended=2),
        Making(resolution=112, stores=[96], ended=2),
    ]
    trials = study_of(folder / "studies/s/optuna.log", "s").trials
    ended = [tuple(trial.params.values()) for trial in trials if trial.state == TrialState.COMPLETE]
    assert sorted(ended) == [(96, 2), (96, 4), (112, 2), (112, 4)]
    _, _, records = records_in(folder)
    assert ["test_auc" in record.metrics for record in records if record.status == "FINISHED"] == [True] * 4


@pytest.mark.slow
def test_the_study_has_both_stores_and_what_each_took(resumed):
    client, study, records = records_in(resumed[0])
    names = [Path(uri).name for uri in study.stores]
    assert [name.split("-")[1] for name in names] == ["96px", "112px"]
    attached = {Path(file.path).stem for file in client.list_artifacts(study.run_id, "features")}
    assert attached == set(names)
    seconds = [study.ledger[f"store_seconds.{name}"] for name in names]
    assert min(seconds) > 0
    assert study.ledger["preload_seconds"] == pytest.approx(sum(seconds))
    assert study.ledger["preload_seconds_per_trial"] == pytest.approx(sum(seconds) / len(records))


@pytest.mark.slow
def test_numbers_are_those_of_a_study_with_that_resolution_alone(resumed, images, tmp_path, capsys):
    fixed = {"features.resolution": 112}
    run_study(StudyOptions(**options(tmp_path, images, {"side.num_prompts": {"choices": [4]}}, fixed=fixed)))
    assert "first asks" not in capsys.readouterr().err
    (alone,) = records_in(tmp_path)[2]
    wanted = {"features.resolution": 112, "side.num_prompts": 4}
    (same,) = [record for record in records_in(resumed[0])[2] if record.values == wanted]
    for name in ("val_auc", "test_auc", "param_ratio", "peak_memory_bytes"):
        assert same.metrics[name] == alone.metrics[name]


@pytest.mark.slow
def test_a_store_that_no_trial_asks_for_is_never_made(images, tmp_path):
    run_study(StudyOptions(**options(tmp_path, images, BOTH, sampler="tpe"), num_trials=1))
    assert made_in(tmp_path) == [112]  # the nearest to the paper's
    _, study, _ = records_in(tmp_path)
    assert len(study.stores) == 1
    assert sum(name.startswith("store_bytes.") for name in study.ledger) == 1
