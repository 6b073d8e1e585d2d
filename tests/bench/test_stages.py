"""Ratios are those of the seconds, by hand; each command prints what it is asked for after a tiny run."""

import dataclasses
import json
import queue
import threading

import pytest
import torch

from fpt_ray.bench import command
from fpt_ray.bench.made import inspected_here, split_counts, write_jpegs
from fpt_ray.bench.stages import extraction, step
from fpt_ray.bench.stages.at_once import ResidentRows, _train
from fpt_ray.bench.stages.epoch import EpochTimes
from fpt_ray.bench.stages.extraction import ExtractionTimes
from fpt_ray.bench.stages.preload import PreloadTimes
from fpt_ray.bench.stages.search import SearchTimes, space_text
from fpt_ray.bench.stages.settings import EpochSetting, GpuSetting, PreloadSetting, SearchSetting
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.errors import ConfigError
from fpt_ray.models.hardware import hardware_here

GPU = GpuSetting(device="cpu", batch=2, plain_batch=1, at_once=(2,), as_one=(3,), rows=8, epochs=2, runs=1)
MACHINE = {"device": "cpu", "threads": 2, "load": 1.0}


@pytest.fixture(autouse=True)
def machine_that_need_not_be_measured(monkeypatch):
    """Products and copies of a useful size take seconds; ``test_step`` measures them."""
    for module, name in (
        (extraction, "product_flops_per_s"),
        (step, "product_flops_per_s"),
        (step, "moved_bytes_per_s"),
    ):
        monkeypatch.setattr(module, name, lambda *_: 1e12)


@pytest.fixture
def tiny(small_trial):
    return override(small_trial, {"features.resolution": 32, "side.resolution": 16, "training.epochs": 1})


# --- by hand ------------------------------------------------------------------------------------------------------


def test_speed_ups_are_medians_over_the_pairs_and_limits_are_over_our_median():
    times = PreloadTimes(
        plain_s=(6.0, 8.0, 30.0),
        ours_s=(2.0, 4.0, 5.0),
        limits_s={"the LPM": 1.0, "decoding": 3.0},
        images=4,
        image_bytes=1,
        precision="bfloat16",
        **MACHINE,
    )
    assert (times.speedup, times.limited_by, times.of_limit) == (3.0, "decoding", 0.75)
    alone = ExtractionTimes(
        plain_s=(4.0, 4.0), float32_s=(2.0, 2.0), bfloat16_s=(1.0, 1.0), limit_s=0.5, product_flops_per_s=1, **MACHINE
    )
    assert (alone.speedup_fp32, alone.speedup_bf16, alone.of_limit, alone.images_per_s) == (2, 4, 0.5, 1)
    older = dataclasses.replace(alone, bfloat16_s=None)
    assert (older.speedup_fp32, older.speedup_bf16, older.of_limit, older.images_per_s) == (2, None, 0.25, 0.5)


def test_waits_are_shares_of_all_epochs_and_a_search_multiplies_the_runs_that_were_timed():
    times = EpochTimes(
        plain_s=(8.0, 9.0, 10.0),
        plain_wait_s=(4.0, 5.0, 4.5),
        ours_s=(2.0, 3.0, 5.0),
        ours_wait_s=(0.5, 0.25, 0.25),
        memory_s=(1.0, 2.0, 2.0),
        memory_wait_s=(0.0, 0.0, 0.5),
        train=4,
        val=2,
        loader_workers=0,
        **MACHINE,
    )
    assert (times.speedup, times.speedup_memory, times.plain_wait) == (3.0, 5.0, 0.5)
    assert (times.data_wait, times.data_wait_memory) == (0.1, 0.1)
    search = SearchTimes(
        plain_run_s=(9.0, 11.0), plain_preload_s=(5.0, 5.0), ours_s=20.0, points=16, epochs=1, images=4, **MACHINE
    )
    assert (search.plain_runs_timed, search.plain_s, search.speedup) == (2, 160, 8)


def test_points_cost_on_average_what_the_trial_in_their_middle_does():
    space = parse_space(space_text(override(TrialConfig(), {"training.epochs": 3}), 5))
    values = {row.name: row.choices for row in space.rows}
    assert values == {
        "features.token_ratio": (0.1, 0.2, pytest.approx(0.3)),
        "side.depth": (4, 6, 8),
        "side.num_prompts": (8, 16, 24),
    }
    assert (space.num_trials, space.base().training.epochs, len(space.stores())) == (5, 3, 1)
    edge = override(TrialConfig(), {"side.depth": 1, "side.num_prompts": 1, "features.token_ratio": 0.9})
    assert [row.choices for row in parse_space(space_text(edge, 2)).rows] == [(0.45, 0.9, 1.0), (1,), (1,)]


def test_made_images_have_both_classes_in_every_split(tmp_path):
    table = inspected_here(write_jpegs(tmp_path, split_counts(9), size=16))
    assert {split: len(table.of(split)) for split in ("train", "val", "test")} == {"train": 5, "val": 2, "test": 2}
    assert len({row.sha256 for row in table.rows()}) == 9
    assert split_counts(64) == {"train": 48, "val": 8, "test": 8}


def test_rows_on_a_device_are_those_that_are_asked_for(tiny):
    rows = ResidentRows(tiny, 6, torch.device("cpu"))
    batch = rows.take([4, 1])
    assert torch.equal(batch.keys, rows.keys[:, [4, 1]])
    assert torch.equal(batch.values, rows.values[:, [4, 1]])
    assert torch.equal(batch.low_res, rows.low_res[[4, 1]])
    assert batch.labels.tolist() == [0, 1]
    assert batch.keys.dtype == torch.float16


# --- the commands -------------------------------------------------------------------------------------------------


def printed(capsys, run, *given):
    """What a command prints as JSON; it is also run for people."""
    run(*given, json=True)
    return json.loads(capsys.readouterr().out)


def test_preload_without_images_times_the_lpm_alone(tiny, capsys):
    setting = PreloadSetting(count=0, batch=2, runs=2)
    found = printed(capsys, command.preload, tiny, setting)
    assert {"speedup_bf16", "speedup_fp32", "of_limit", "images_per_s"} <= set(found)
    assert len(found["plain_s"]) == len(found["float32_s"]) == 2
    has_bfloat16 = hardware_here().has_bfloat16
    assert (found["bfloat16_s"] is not None) == (found["speedup_bf16"] is not None) == has_bfloat16
    assert 0 < found["of_limit"] < 1


def test_an_epoch(tiny, capsys):
    setting = EpochSetting(train=8, val=4, size=40, loader_workers=1, runs=2)
    found = printed(capsys, command.epoch, tiny, setting)
    assert {"speedup", "speedup_memory", "data_wait", "data_wait_memory"} <= set(found)
    assert [len(found[name]) for name in ("plain_s", "ours_s", "memory_s")] == [2, 2, 2]
    assert 0 <= found["data_wait"] < 1
    command.epoch(tiny, dataclasses.replace(setting, loader_workers=0, runs=1))
    assert "waiting for data" in capsys.readouterr().out


def test_a_gpu_that_is_not_there_is_refused_with_the_flag_that_tries_it(tiny):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU, which the command takes")
    with pytest.raises(ConfigError, match="needs a CUDA GPU") as error:
        command.gpu(tiny, GpuSetting())
    assert error.value.fields == ("device",)


def test_what_a_gpu_runs_is_tried_on_the_cpu(tiny, capsys):
    found = printed(capsys, command.gpu, tiny, dataclasses.replace(GPU, at_once=(), as_one=()))
    assert {"extraction", "step", "trials", "memory", "predicted_over_measured"} <= set(found)
    assert found["memory"]["measured"] is found["predicted_over_measured"] is None
    assert found["memory"]["memory"]["allocated_bytes"] > 0


def test_a_process_says_how_long_it_trained_after_all_were_ready(tiny):
    trial = override(tiny, {"training.epochs": 3})
    found: queue.SimpleQueue = queue.SimpleQueue()
    for as_one in (1, 2):
        _train(0, trial, as_one, 8, "cpu", threading.Barrier(1), found)
        seconds, allocated, reserved = found.get()
        assert 0 < seconds < 60
    assert (allocated, reserved) == (0, 0)


@pytest.mark.slow
def test_trials_at_once(tiny, capsys):
    found = printed(capsys, command.gpu, override(tiny, {"training.epochs": 5}), GPU)["trials"]
    assert [(one["processes"], one["as_one"]) for one in found] == [(2, 1), (1, 3)]
    for trials, number in zip(found, (2, 3), strict=True):
        assert trials["trials_per_hour"] == pytest.approx(number * 3600 / (5 * trials["seconds_per_epoch"]))


# --- with Ray -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_preload_command(tiny, capsys):
    found = printed(capsys, command.preload, tiny, PreloadSetting(count=8, size=40, runs=1))
    assert {"speedup", "of_limit", "speedup_bf16", "speedup_fp32", "extraction"} <= set(found)
    assert set(found["limits_s"]) == {"the LPM", "decoding", "writing"}
    assert found["images"] == 8
    assert 0 < found["of_limit"] < 1


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_search(tiny, capsys):
    trial = override(tiny, {"training.batch_size": 2})
    setting = SearchSetting(points=2, epochs=1, count=8, size=40, plain_runs=2, loader_workers=0)
    found = printed(capsys, command.search, trial, setting)
    assert {"speedup", "plain_runs_timed", "ours_s", "plain_run_s"} <= set(found)
    assert found["plain_runs_timed"] == 2
    assert found["speedup"] == pytest.approx(sum(found["plain_run_s"]) / found["ours_s"])
