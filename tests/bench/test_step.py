"""The step that ours is timed against takes the same losses from the same weights; ratios are those of the seconds."""

import json

import pytest
import torch

from fpt_ray.bench import command
from fpt_ray.bench.plain.step import plain_network, plain_step
from fpt_ray.bench.stages.step import StepTimes, collate, our_step, random_images
from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError

CPU = torch.device("cpu")


def test_both_ways_take_the_same_losses(small_trial):
    """Also after updates: gradients, clipping, AdamW and schedule are the same."""
    quiet = {"side.prompt_dropout": 0.0, "training.augment": False, "training.clip_norm": 0.5}
    trial = override(small_trial, quiet | {"features.resolution": 32, "training.learning_rate": 0.01})
    images = random_images(trial)
    plain, ours = plain_step(plain_network(trial, 5).train(), trial, 3), our_step(trial, images, 3, CPU)
    losses = [(float(plain(collate(images))), ours()) for _ in range(3)]
    for theirs, our in losses:
        assert our == pytest.approx(theirs, abs=1e-5)
    assert losses[0][0] - losses[2][0] > 0.01, "the updates must move the weights"


def test_ratios_are_those_of_the_pairs():
    times = StepTimes(
        plain_s=(3.0, 4.0, 9.0),
        collate_s=(1.0, 1.0, 1.0),
        ours_s=(1.0, 2.0, 4.0),
        limit_s=0.5,
        product_flops_per_s=1e9,
        moved_bytes_per_s=1e9,
        device="cpu",
        threads=1,
        load=1.0,
    )
    assert (times.speedup, times.speedup_collated, times.of_limit) == (2.25, 2.5, 0.25)


def test_the_command_prints_json_and_a_table(small_trial, capsys):
    trial = override(small_trial, {"features.resolution": 32})
    command.step(trial, runs=2, json=True)
    found = json.loads(capsys.readouterr().out)
    assert {"speedup", "speedup_collated", "of_limit"} <= set(found)
    assert len(found["plain_s"]) == len(found["collate_s"]) == len(found["ours_s"]) == 2
    assert found["limit_s"] > 0
    assert found["of_limit"] > 0
    command.step(trial, runs=2)
    assert "speed-up" in capsys.readouterr().out


def test_another_method_is_refused(small_trial):
    with pytest.raises(ConfigError, match="fpt"):
        plain_network(override(small_trial, {"method": "fpt"}), 5)
