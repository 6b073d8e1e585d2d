"""The fault table, S3: credentials that expire in the middle. The server is a real one behind a proxy that refuses."""

import re
import sys

import pytest

from fpt_ray.cluster import ray_session
from fpt_ray.config.space_yaml import load_space
from fpt_ray.errors import ConfigError
from fpt_ray.features.command import Verify, run_features
from fpt_ray.preload.pipeline import preload
from fpt_ray.search.optuna_study import load_study
from fpt_ray.storage.files import list_files
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import default_uri, open_tracking
from tests.conftest import SMOKE
from tests.s3_server import BUCKET, served
from tests.searches import driver
from tests.stores import draw_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
NEED = load_space(SMOKE).stores()[0]


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, served(tmp_path_factory.mktemp("s3"), patch) as found:
        yield found


def test_s3_credentials_expired_in_the_middle(faults, tmp_path, monkeypatch):
    monkeypatch.setattr("fpt_ray.preload.pipeline.SHARD_BYTES", 100_000)
    images, workdir = draw_images(tmp_path / "images", (3, 1, 1)), f"s3://{BUCKET}/work"
    with ray_session(local=True, num_cpus=2):
        faults.expired_after = 2
        with pytest.raises(ConfigError) as error:
            preload(images, NEED, workdir)
        faults.__init__()
        message = str(error.value)
        for part in (f"bucket {BUCKET}", "key work/features/", "PutObject", "the credentials have expired: renew them"):
            assert part in message
        assert "\n" not in message
        kept = [file for file in list_files(workdir) if "/shards/" in file.path]
        assert len(kept) == 2
        store = preload(images, NEED, workdir)
    written = [name for name in faults.seen if name.startswith("PUT") and "/shards/" in name]
    assert len(written) == len(store.shards) - 2
    assert set(kept) <= set(list_files(workdir))
    assert run_features(Verify(uri=store.uri))


def test_s3_credentials_expired_in_the_middle_of_a_search(faults, tmp_path):
    """No trial is blamed; with new credentials the study goes on from the epochs that were kept."""
    faults.__init__()
    faults.expired_after, faults.expiring = 5, "/checkpoint.pt"
    workdir, uri = f"s3://{BUCKET}/search", default_uri(tmp_path)
    images = draw_images(tmp_path / "images", (3, 1, 1))
    options = ["--space", str(SMOKE), "--images", images, "--workdir", workdir, "--tracking_uri", uri, "--study", "s"]
    command = [sys.executable, "-m", "fpt_ray.tune", *options, "--num_trials", "3", "--set", "training.epochs=6"]
    said = tmp_path / "said"
    with driver(command, said, XDG_STATE_HOME=str(tmp_path)) as process:
        assert process.wait(200) == 2
    told = said.read_text().strip().splitlines()[-1]
    assert re.search(rf"bucket {BUCKET}, .* credentials (are refused or )?have expired: ", told)
    faults.__init__()
    with driver([*command, "--resume"], said, XDG_STATE_HOME=str(tmp_path)) as process:
        assert process.wait(200) == 0
    client = open_tracking(uri)
    records = tracking.read_trials(client, tracking.find_study(client, "s"))
    assert sorted(record.number for record in records if record.status == "FINISHED")[-1] >= 2
    assert sum(record.status == "FINISHED" for record in records) == 3
    assert {record.status for record in records} <= {"FINISHED", "KILLED"}
    study = load_study("s", f"{workdir}/studies/s/optuna.log")
    states = [trial.state.name for trial in study.get_trials()]
    assert states.count("COMPLETE") == 3
    assert set(states) <= {"COMPLETE", "FAIL"}
