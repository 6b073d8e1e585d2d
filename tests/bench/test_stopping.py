"""What is replayed of a study without early stopping."""

import pytest

from fpt_ray.bench import stopping
from fpt_ray.bench.stopping import Curve, stop_early
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.tracking.records import TrialRecord

SPACE = parse_space("space: {training.learning_rate: {low: 0.1, high: 1.0}}")


def test_trials_without_a_volume_are_told(monkeypatch):
    metrics = dict.fromkeys(SPACE.objectives, 0.5)
    record = TrialRecord.__new__(TrialRecord)
    object.__setattr__(record, "metrics", metrics)
    object.__setattr__(record, "run_id", "a")
    monkeypatch.setattr(stopping, "front_of", lambda records, *_: records)
    with pytest.raises(ConfigError, match="1 trials span no volume"):
        stop_early(SPACE, [(record, Curve(val_score=(0.5,), costs=metrics))], "asha", fair=True, orders=1)
