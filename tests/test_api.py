"""What ``import fpt_ray`` offers to Python: its names, and a trial from images to scores without a command line."""

import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fpt_ray
from fpt_ray.config.trial import override
from tests.conftest import SMOKE

ROOT = Path(fpt_ray.__file__).parents[1]


def test_every_name_is_there_and_is_no_room():
    rooms = {path.name.removesuffix(".py") for path in Path(fpt_ray.__file__).parent.iterdir()}
    assert set(fpt_ray.__all__) <= set(dir(fpt_ray))
    assert not set(fpt_ray.__all__) & rooms
    for name in fpt_ray.__all__:
        assert getattr(fpt_ray, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'train_trail'"):
        _ = fpt_ray.train_trail


@pytest.mark.slow
def test_names_mean_the_same_to_a_type_checker(tmp_path):
    """pyright reads the imports under TYPE_CHECKING, Python the table of places."""
    lines = [f"reveal_type(fpt_ray.{name})" for name in fpt_ray.__all__]
    file = tmp_path / "names.py"
    file.write_text("\n".join(("import fpt_ray", *lines)))
    root = Path(fpt_ray.__file__).parents[1]
    pyright = Path(sys.executable).with_name("pyright")
    done = subprocess.run([pyright, file], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("information: Type of") == len(fpt_ray.__all__)
    for name in fpt_ray.__all__:
        value = getattr(fpt_ray, name)
        (said,) = [line for line in done.stdout.splitlines() if f'"fpt_ray.{name}"' in line]
        assert f"type[{name}]" in said if isinstance(value, type) else "->" in said


def test_an_error_keeps_what_would_mend_it_between_processes():
    error = fpt_ray.ConfigError("study 's' exists", fields=("resume",))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.fields) == ("study 's' exists", ("resume",))


@pytest.fixture(scope="module")
def result(cluster, store, workdir):
    trial = override(fpt_ray.load_space(SMOKE).stores()[0].trial, {"training.epochs": 2})
    return fpt_ray.train_trial(trial, store, workdir=workdir, name="api")


@pytest.mark.slow
def test_a_trial_gives_its_numbers_as_a_value(result, store, workdir):
    from fpt_ray.train.best import scores_of_best
    from fpt_ray.train.checkpoint import load_checkpoint

    assert result.store == store.uri
    assert re.fullmatch(rf"{workdir}/runs/api-[0-9a-f]{{12}}", result.run)
    (again,) = scores_of_best(result.trial, store, "test", load_checkpoint(result.checkpoint))
    assert again["auc"] == pytest.approx(result.test["auc"], abs=1e-9)
    assert result.best_epoch in (1, 2)
    assert 0 < result.param_ratio < 1
    assert result.memory_ratio > 0
    assert 0 < result.ppe <= result.val["auc"]


@pytest.mark.slow
def test_a_session_leaves_signals_alone_outside_the_main_thread(cluster, store, workdir, result):
    """A notebook's or a server's thread may train; ``signal.signal`` would raise there."""
    code = (
        "import signal, threading\n"
        "from fpt_ray.cluster import ray_session\n"
        "found = []\n"
        "def work():\n"
        "    with ray_session(local=True, num_cpus=1):\n"
        "        found.append(signal.getsignal(signal.SIGTERM))\n"
        "before = signal.getsignal(signal.SIGTERM)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "assert len(found) == 1, found\n"
        "with ray_session(local=True, num_cpus=1):\n"
        "    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler\n"
        "assert signal.getsignal(signal.SIGTERM) == before\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    assert threading.current_thread() is threading.main_thread()


SMALL = {  # what the README has, and what stands in for it here: the same lines on a small network with random weights
    '"demo/vit_small_patch14_dinov2.safetensors"': '"random"',
    '"vit_small_patch14_dinov2"': '"vit_tiny_patch16_224"',
    "resolution=392": "resolution=96",
    "resolution=70": "resolution=64",
    'space="demo"': 'space="smoke"',
    '"demo/images"': "IMAGES",
    '"demo"': "WORKDIR",
}


@pytest.mark.slow
def test_the_readmes_lines_run(cluster, images, tmp_path, capsys):
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    for shown, small in SMALL.items():
        assert shown in lines
        lines = lines.replace(shown, small)
    names = {"IMAGES": images, "WORKDIR": str(tmp_path)}
    exec(lines, names)
    assert isinstance(names["found"], fpt_ray.Features)
    study = names["study"]
    assert isinstance(study, fpt_ray.StudyResult)
    assert [record.status for record in study.trials] == ["FINISHED"] * 4
    table = study.to_pandas()
    assert list(table["trial"]) == [record.number for record in study.trials]
    assert list(table[table["on_front"]]["trial"]) == [record.number for record in study.front]
    assert table["val_auc"].between(0, 1).all()
    assert (study.places.folder / "front.md").exists()
    printed = capsys.readouterr().out
    assert "TrialResult(" in printed
    assert f"{len(study.front)} " in printed
