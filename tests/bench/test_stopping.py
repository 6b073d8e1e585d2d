"""What is replayed of a study without early stopping."""

import pytest

from fpt_ray.bench.stopping import Curve, stop_early
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.errors import ConfigError
from fpt_ray.tracking.records import TrialRecord

SPACE = parse_space("space: {training.learning_rate: {low: 0.1, high: 1.0}}")


def test_trials_without_a_volume_are_told():
    metrics = dict.fromkeys(SPACE.objectives, 0.5)
    record = TrialRecord(number=0, run_id="a", params={}, metrics=metrics, tags={}, status="FINISHED", reason="")
    with pytest.raises(ConfigError, match="1 trials span no volume"):
        stop_early(SPACE, [(record, Curve(val_score=(0.5,), costs=metrics))], "asha", fair=True, orders=1)
