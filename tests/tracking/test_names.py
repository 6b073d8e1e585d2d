"""Keys of numbers and titles of trials, by hand; the order in which MLflow's charts show keys is that of their text."""

import pytest
from mlflow.utils.validation import _validate_metric_name

from fpt_ray.config.objectives import OBJECTIVES
from fpt_ray.config.tasks import TITLES
from fpt_ray.tracking.names import metric_key, plain_name, trial_title, weighed

TESTED = [f"test_{score}{end}" for score in TITLES for end in ("", "_std", "_low", "_high")]
NAMES = [
    *OBJECTIVES,
    *TESTED,
    *("learnable_parameters", "feature_bytes", "measured_peak_memory_bytes", "train_loss", "epochs", "best_epoch"),
    *("val_auc_epoch", "val_auc_std", "difference_low", "fit_seconds", "startup_seconds", "process_cpu_percentage"),
]


def test_every_number_is_found_again_under_its_key_which_mlflow_takes():
    keys = {metric_key(name): name for name in NAMES}
    assert len(keys) == len(set(NAMES))
    for key, name in keys.items():
        assert plain_name(key) == name
        _validate_metric_name(key)


def test_what_a_study_weighs_comes_before_all_else():
    keys = sorted(map(metric_key, NAMES))
    aims = [key for key in keys if key.startswith("aim/")]
    costs = [key for key in keys if key.startswith("cost/")]
    assert keys[: len(aims) + len(costs)] == [*aims, *costs]
    assert {"aim/val_auc", "aim/test_auc", "aim/ppe", "aim/pme"} <= set(aims)
    told = ("learnable_parameters", "param_ratio", "memory_ratio", "peak_memory_bytes")
    assert {f"cost/{name}" for name in told} <= set(costs)
    assert min("ledger/", "scores/", "time/", "training/", "system/") > max(costs)
    numbers = {"fit_seconds": 9, "param_ratio": 0.1, "ppe": 0.8, "test_kappa": 0.7, "val_kappa": 0.6, "val_auc_std": 1}
    assert list(weighed(numbers, "kappa")) == ["val_kappa", "test_kappa", "ppe", "param_ratio"]


def test_the_score_on_the_test_split_comes_first_if_it_picks_the_best():
    assert metric_key("test_kappa", "kappa") == "aim/test_kappa"
    assert metric_key("test_kappa") == "scores/test_kappa"
    assert metric_key("test_auc", "kappa") == "scores/test_auc"


@pytest.mark.parametrize(
    ("values", "title"),
    [
        ({}, "#18"),
        ({"side.num_prompts": 16, "features.token_ratio": 0.2, "side.depth": 6}, "#18 · 16 prompts · 20 % · depth 6"),
        ({"training.learning_rate": 0.00123456, "side.resolution": 70}, "#18 · lr 0.00123 · side 70 px"),
        ({"method": "probe", "features.resolution": 392, "side.blocks": "last"}, "#18 · probe · 392 px · blocks last"),
        ({"training.weight_decay": 0.01, "point": "a row"}, "#18 · weight decay 0.01"),
    ],
)
def test_a_trial_is_called_by_its_number_and_what_it_tries(values, title):
    assert trial_title(18, values) == title


def test_a_trial_is_called_by_its_row_and_by_what_it_confirms():
    assert trial_title(18, {"side.depth": 2}, "FPT+", confirms="3") == "#18 · #3 again · FPT+ · depth 2"
