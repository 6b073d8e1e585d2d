"""Features of many images in batches, compared with the forward pass of each batch by hand."""

import dataclasses
import threading

import numpy as np
import pytest
import torch

from fpt_ray.config.space import need_of
from fpt_ray.config.trial import BackboneConfig, FeaturesConfig, SideConfig, TrialConfig
from fpt_ray.features.spec import store_spec
from fpt_ray.images.pixels import normalise
from fpt_ray.models.importance import extract
from fpt_ray.models.weights import load_backbone
from fpt_ray.preload import batches
from fpt_ray.preload.batches import extract_batches, start
from fpt_ray.preload.extraction import compute_with
from tests.conftest import SMALL

TRIAL = TrialConfig(
    backbone=BackboneConfig(name=SMALL, weights="random"),
    features=FeaturesConfig(resolution=96, token_ratio=0.1),
    side=SideConfig(depth=2, resolution=32),
)
SPEC = store_spec(need_of(TRIAL))


@pytest.fixture(scope="module")
def model():
    return load_backbone(TRIAL.backbone, 96).requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 255, (7, 96, 96, 3), np.uint8)


def same(found, expected):
    return all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_features_are_those_of_each_batch_in_the_stored_type(model, images, dtype, monkeypatch):
    spec = dataclasses.replace(SPEC, dtype=dtype)
    monkeypatch.setitem(batches._BATCH_TOKENS, "cpu", 3 * spec.num_tokens)
    images.flags.writeable = False  # as what Ray gives
    found = extract_batches(model, images, spec)
    with torch.no_grad():
        parts = [
            extract(
                model,
                normalise(torch.from_numpy(images[first : first + 3].copy()), spec.mean, spec.std),
                blocks=spec.blocks,
                num_kept=spec.num_kept,
                summarised=True,
            )
            for first in (0, 3, 6)
        ]
    stored = getattr(torch, dtype)
    assert same(
        found,
        (
            torch.cat([part.keys for part in parts], dim=1).to(stored),
            torch.cat([part.values for part in parts], dim=1).to(stored),
            torch.cat([part.tokens for part in parts], dim=1),
            torch.cat([part.summaries for part in parts], dim=2).to(stored),
        ),
    )


def test_the_number_of_threads_changes_no_bit(model, images):
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(extract_batches(model, images, SPEC))
    finally:
        torch.set_num_threads(before)
    assert same(found[1], found[0])
    assert same(found[2], found[0])


def test_a_shard_is_whole_while_the_next_one_is_computed(model, images):
    """Shards are handed to the LPM by several threads: one waits for its features while another's are computed."""
    turn, found = threading.Lock(), {}

    def shard(number):
        with turn:
            started = start(model, images[number : number + 2], SPEC)
        assert started.wait() > 0
        found[number] = started.features

    threads = [threading.Thread(target=shard, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert same(found[number], extract_batches(model, images[number : number + 2], SPEC))


def test_a_thread_has_the_number_of_threads_that_it_set():
    """Also where another one has set its own before it computed anything."""
    is_set, is_other_set, found = threading.Event(), threading.Event(), []

    def first():
        compute_with(2)
        is_set.set()
        is_other_set.wait()
        torch.ones(2**16).add_(1)
        found.append(torch.get_num_threads())

    def second():
        is_set.wait()
        compute_with(1)
        is_other_set.set()

    threads = [threading.Thread(target=one) for one in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [2]
