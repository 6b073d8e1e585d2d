"""Identities, compared with what a space is made of: every field counts but those that change no number."""

import dataclasses

import pytest

from fpt_ray.config.dotted import flatten
from fpt_ray.config.identity import difference, digest_of, identifying
from fpt_ray.config.objectives import broken_limits
from fpt_ray.config.space import SearchSpace
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.trial import TrialConfig, override

TEXT = """
space: {side.num_prompts: {choices: [2, 4]}, side.depth: {low: 1, high: 4}}
fixed: {training.epochs: 2, backbone.weights: a.safetensors}
objectives: {val_auc: max, param_ratio: min}
constraints: {val_auc: {min: 0.8}}
num_trials: 4
"""
SPACE = parse_space(TEXT)
CHANGES = {
    "choices: [2, 4]": "choices: [2, 8]",
    "high: 4": "high: 6",
    "training.epochs: 2": "training.epochs: 3",
    "val_auc: max, param_ratio: min": "param_ratio: min, val_auc: max",
    "param_ratio: min": "memory_ratio: min",
    "min: 0.8": "min: 0.7",
    "num_trials: 4": "sampler: random",
    "objectives:": "seed: 3\nobjectives:",
    "fixed:": "early_stopping: asha\nfixed:",
}


def test_the_order_of_fields_is_no_part_of_an_identity():
    assert digest_of({"a": 1, "b": [2.0, None]}) == digest_of({"b": [2.0, None], "a": 1}) != digest_of({"a": 2, "b": 1})


@pytest.mark.parametrize(("old", "new"), CHANGES.items())
def test_whatever_changes_what_is_searched_changes_the_identity(old, new):
    other = parse_space(TEXT.replace(old, new))
    assert digest_of(other.identity()) != digest_of(SPACE.identity())
    assert difference(SPACE.identity(), other.identity()) is not None


@pytest.mark.parametrize(("old", "new"), [("num_trials: 4", "num_trials: 9"), ("a.safe", "/mnt/b.safe"), ("2,", "2, ")])
def test_number_of_trials_places_and_spelling_are_no_part_of_it(old, new):
    other = parse_space(TEXT.replace(old, new))
    assert digest_of(other.identity()) == digest_of(SPACE.identity())
    assert difference(SPACE.identity(), other.identity()) is None


def test_a_new_field_is_part_of_it_by_itself():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Later(SearchSpace):
        novelty: int = 1

    plain = {item.name: getattr(SPACE, item.name) for item in dataclasses.fields(SPACE)}
    said = difference(Later(**plain).identity(), Later(**plain, novelty=2).identity())
    assert said == "novelty is 1 there, 2 is asked"
    assert difference(SPACE.identity(), Later(**plain).identity()) == "novelty is nothing there, 1 is asked"


def test_a_difference_has_the_field_and_both_values():
    other = parse_space(TEXT.replace("training.epochs: 2", "training.epochs: 5"))
    assert difference(SPACE.identity(), other.identity()) == "fixed.training.epochs is 2 there, 5 is asked"


def test_a_broken_limit_is_named_and_a_missing_number_keeps_to_none():
    limits = SPACE.constraints
    assert broken_limits(limits, {"val_auc": 0.8}) == {}
    assert broken_limits(limits, {"val_auc": 0.79}) == {"val_auc": 0.79}
    assert list(broken_limits(limits, {})) == ["val_auc"]
    known_before = parse_space(TEXT.replace("{val_auc: {min: 0.8}}", "{feature_bytes: {max: 9}}")).constraints
    assert broken_limits(known_before, {"val_auc": 0.1}) == {}
    assert broken_limits(known_before, {"feature_bytes": 10.0}) == {"feature_bytes": 10.0}


def test_trials_of_before_a_field_was_have_the_identity_that_they_had():
    """Digests that commit 3e93267 made: of this space, and of the default trial's values."""
    assert digest_of(SPACE.identity()) == "380e21935bc877836ee3810da09d94aaea646d4b10a4c2e57eb68aa4417058f8"
    values = identifying(flatten(TrialConfig())) | {"backbone.weights": None}
    assert digest_of(values) == "0399d2cd4f677577bd2f54b4bdf0e313de8339f24f2ada9ffddb19735a02ee1f"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss.weights", "balanced"),
        ("loss.focal_gamma", 2.0),
        ("training.sampling", "balanced"),
        ("training.select_by", "kappa"),
        ("features.intensity", "percentile"),
        ("features.window", (40.0, 400.0)),
        ("features.percentiles", (1.0, 99.0)),
        ("features.aspect", "pad"),
        ("features.crop_black", 0),
        ("features.srgb", True),
        ("features.reduced_scale", True),
        ("augment.min_area", 1.0),
        ("augment.horizontal_flip", 0.0),
        ("augment.vertical_flip", 0.5),
        ("augment.rotation_degrees", 10.0),
        ("augment.blur_sigma", 1.0),
        ("augment.jitter", 0.0),
    ],
)
def test_what_was_added_counts_where_it_is_not_as_before(name, value):
    plain, other = identifying(flatten(TrialConfig())), identifying(flatten(override(TrialConfig(), {name: value})))
    assert digest_of(plain) != digest_of(other)
    assert identifying(flatten(override(TrialConfig(), {"loss.weights": "balanced"})))["training.class_weights"] is True
