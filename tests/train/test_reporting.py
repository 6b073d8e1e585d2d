"""What a worker is told and what it finds on its own host."""

import errno
import os
import time
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from ray.exceptions import RayTaskError

from fpt_ray.config.trial import TrialConfig, override
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import StoreError
from fpt_ray.models.device import DeviceError
from fpt_ray.models.hardware import Hardware
from fpt_ray.reading.places import Reading
from fpt_ray.train.reporting import TrainWork, train_and_report
from fpt_ray.train.seeds import Member
from fpt_ray.tune.worker import failure_of

GPU = Hardware(device="cuda", name="a100", has_bfloat16=True, memory_bytes=1)


class Session:
    """A worker's surroundings on a CPU, which computes in float32 where nothing is asked for."""

    device, rank, num_workers, started, says_epochs = torch.device("cpu"), 0, 1, time.perf_counter(), False

    def prepare(self, model):
        return model

    def saved(self):
        return nullcontext()

    def report(self, messages, folder):
        raise AssertionError("nothing is trained")


def unread(split):
    raise LookupError(f"{split} is read")


def work(precision, planned):
    trial = override(TrialConfig(), {"training.precision": precision})
    return TrainWork(
        members=(Member(trial=trial, costs={}, identity=""),), stores=(), reading=Reading(), planned=planned
    )


def test_a_worker_that_would_compute_in_another_type_than_was_planned_says_so_and_halts_a_search():
    """Its numbers would stand under an identity, and beside costs, of the other type."""
    said = r"precision auto is float32 on cpu of the host .*, and bfloat16 on a100, by which the training was planned"
    with pytest.raises(DeviceError, match=said) as caught:
        train_and_report(work("auto", GPU), unread, Session())
    assert failure_of(caught.value).halts_search


@pytest.mark.parametrize(
    ("precision", "planned"),
    [("float32", GPU), ("bfloat16", GPU), ("auto", replace(GPU, has_bfloat16=False))],
)
def test_of_unlike_hosts_that_compute_in_one_type_nothing_is_said(precision, planned):
    with pytest.raises(LookupError, match="train is read"):
        train_and_report(work(precision, planned), unread, Session())


def test_a_store_that_a_host_does_not_see_halts_a_search_and_a_point_that_cannot_be_built_does_not():
    """Its trials would fail one after the other, and count as run."""
    assert failure_of(StoreError("/nfs/features/a is not there on the host b")).halts_search
    assert not failure_of(ConfigError("side.depth is 13")).halts_search


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.EACCES])
def test_a_disk_that_fails_halts_a_search(number):
    failure = failure_of(OSError(number, os.strerror(number), "/nfs/features/a"))
    assert failure.halts_search
    assert f"{os.strerror(number)}: '/nfs/features/a'; mend that, and resume the study" in failure.reason


def test_what_a_task_of_a_trial_ends_with_is_the_trials_own_end():
    """Ray's own error says the whole way to it, of many lines."""
    failure = failure_of(RayTaskError("read", "a\ntraceback", StoreError("/nfs/a is damaged")).as_instanceof_cause())
    assert (failure.reason, failure.halts_search) == ("/nfs/a is damaged", True)
    for error in (OSError("no number"), MemoryError("too much"), OSError(errno.ENOMEM, "Cannot allocate memory")):
        assert not failure_of(error).halts_search
