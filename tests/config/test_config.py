"""Configurations and search spaces are compared with what their YAML and their field types say."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest

from fpt_ray.config.dotted import coerce, field_types, flatten
from fpt_ray.config.space import SearchRow, SearchSpace
from fpt_ray.config.space_yaml import load_space, parse_space, with_fixed
from fpt_ray.config.trial import SideConfig, TrialConfig, override, reads_images, trial_from
from fpt_ray.errors import ConfigError

PAPER = """
space:
  features.token_ratio: {choices: [0.05, 0.1, 0.2]}
  side.depth: {low: 2, high: 12, step: 2}
  side.num_prompts: {choices: [4, 64, 16]}
  side.resolution: {low: 64, high: 256, step: 64}
  training.learning_rate: {low: 1e-5, high: 1e-2, log: true}
fixed: {backbone.name: vit_small_patch16_224, training.epochs: 3}
objectives: {val_auc: max, memory_ratio: min}
num_trials: 12
seed: 5
sampler: nsga2
"""


def space(rows: str, more: str = "") -> SearchSpace:
    return parse_space(f"space: {{{rows}}}\n{more}")


# --- trials ---------------------------------------------------------------------------------------------------


def test_the_default_is_the_papers() -> None:
    """Section 4.2.1."""
    trial = TrialConfig()
    assert (trial.features.resolution, trial.features.token_ratio) == (512, 0.2)
    assert (trial.side.resolution, trial.side.num_prompts, trial.side.reduction, trial.side.depth) == (128, 16, 8, 6)
    assert (trial.training.epochs, trial.training.batch_size) == (20, 16)


def test_flatten_and_back() -> None:
    trial = trial_from({"method": "fpt", "side.depth": 3, "features.mean": [0, 0.5, 1], "backbone.weights": "random"})
    flat = flatten(trial)
    assert trial_from(flat) == trial != TrialConfig()
    assert (flat["method"], flat["side.depth"], flat["features.mean"]) == ("fpt", 3, (0.0, 0.5, 1.0))
    assert list(flat) == list(field_types(TrialConfig)) == list(flatten(TrialConfig()))


def test_a_trial_survives_being_written_as_text() -> None:
    """MLflow keeps parameters as text; numbers come back from it (what is None, true or a tuple is left out here)."""
    trial = trial_from({"side.num_prompts": 64, "training.learning_rate": 3e-5})
    numbers = {name: str(value) for name, value in flatten(trial).items() if type(value) in (int, float, str)}
    assert trial_from(numbers) == trial


def test_override_leaves_the_first_trial_as_it_was() -> None:
    first = TrialConfig()
    second = override(first, {"side.depth": 4, "side.num_prompts": 8, "training.seed": 1})
    assert first == TrialConfig()
    assert second.side == dataclasses.replace(SideConfig(), depth=4, num_prompts=8)
    assert second.training.seed == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        second.method = "fpt"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("side.num_prompt", "side.num_prompts"), ("feature.resolution", "features.resolution"), ("side", "side.depth")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown name '{name}'; did you mean '{nearest}'\?"):
        trial_from({name: 1})


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(ConfigError, match=r"unknown name 'zzz'; known are method, backbone\.name, "):
        trial_from({"zzz": 1})


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("features.resolution", 0, "larger than 0"),
        ("features.token_ratio", 0.0, "larger than 0"),
        ("features.token_ratio", 1.5, "at most 1"),
        ("side.depth", -1, "larger than 0"),
        ("side.num_prompts", -1, "0 or more"),
        ("side.prompt_dropout", 1.0, r"in \[0, 1\)"),
        ("training.batch_size", 0, "larger than 0"),
        ("training.learning_rate", 0, "larger than 0"),
        ("method", "lorra", r"choose one of 'fpt\+', 'fpt'"),
        ("features.importance", "max", "choose one of 'global', 'class_token'"),
        ("features.mean", [0.5, 0.5], "give 3 numbers"),
        ("features.mean", 0.5, "give 3 numbers"),
        ("training.augment", "yes", "it takes true or false"),
        ("training.epochs", True, "it takes a whole number"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object, remedy: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} is .*{remedy}"):
        trial_from({name: value})


def test_no_prompts_and_all_tokens_are_in_range() -> None:
    trial = trial_from({"side.num_prompts": 0, "features.token_ratio": 1, "side.prompt_dropout": 0})
    assert (trial.side.num_prompts, trial.features.token_ratio, trial.side.prompt_dropout) == (0, 1.0, 0.0)


# --- coerce ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hint", "converted"),
    [
        ("1e-4", float, 1e-4),  # YAML 1.1 reads 1e-4, without a point, as text
        (1, float, 1.0),
        ("16", int, 16),
        (16.0, int, 16),
        (2**53 + 1, int, 2**53 + 1),
        (None, int | None, None),
        ("96", int | None, 96),
        (False, bool, False),
        ([1, "0.5", 0], tuple[float, float, float], (1.0, 0.5, 0.0)),
        (None, tuple[float, float, float] | None, None),
        ("b", Literal["a", "b"], "b"),
        (16, str, "16"),
    ],
)
def test_values_become_their_fields_type(value: object, hint: Any, converted: object) -> None:
    found = coerce("name", value, hint)
    assert found == converted
    assert type(found) is type(converted)


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (2.5, int),
        ("2.5", int),
        ("many", int),
        (None, int),
        ([4], int),
        (float("nan"), int),
        (float("inf"), int),
        (True, int),
        ("nan", float),
        ("-inf", float),
        pytest.param(10**400, float, id="huge"),
        (None, float),
        (True, float),
        (True, str),
        (1, bool),
        ("true", bool),
        ([1, 2, None], tuple[float, float, float]),
        (None, Literal["a", "b"]),
        ([], Literal["a", "b"]),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(value: object, hint: Any) -> None:
    with pytest.raises(ConfigError, match=r"side\.thing is "):
        coerce("side.thing", value, hint)


# --- spaces ---------------------------------------------------------------------------------------------------


def test_a_space_is_read() -> None:
    found = parse_space(PAPER)
    rows = {row.name: row for row in found.rows}
    assert list(rows)[:2] == ["features.token_ratio", "side.depth"]
    assert rows["side.num_prompts"].choices == (4, 64, 16)
    depth, rate = rows["side.depth"], rows["training.learning_rate"]
    assert (depth.low, depth.high, depth.step, depth.log) == (2, 12, 2, False)
    assert (rate.low, rate.high, rate.step, rate.log) == (1e-5, 1e-2, None, True)
    assert found.objectives == {"val_auc": "max", "memory_ratio": "min"}
    assert (found.num_trials, found.seed, found.sampler, found.text) == (12, 5, "nsga2", PAPER)
    assert found.base() == trial_from({"backbone.name": "vit_small_patch16_224", "training.epochs": 3})


def test_what_a_space_leaves_out_has_defaults() -> None:
    found = space("side.depth: {low: 2, high: 6}")
    assert found.objectives == {"val_auc": "max"}
    assert (found.sampler, found.num_trials, found.seed) == ("tpe", 32, 0)
    assert found.base() == TrialConfig()


def test_whether_a_row_is_whole_or_not_comes_from_its_field() -> None:
    whole, real = space("side.depth: {low: 2, high: 4}, training.weight_decay: {low: 0, high: 1}").rows
    assert whole.values() == (2, 3, 4)
    assert {type(value) for value in whole.values()} == {int}
    assert (type(real.low), type(real.high), real.step) == (float, float, None)


def test_values_of_a_stepped_row_end_within_it() -> None:
    depth, ratio = space(
        "side.depth: {low: 2, high: 9, step: 4}, features.token_ratio: {low: 0.1, high: 0.5, step: 0.1}"
    ).rows
    assert depth.values() == (2, 6)
    assert ratio.values() == pytest.approx((0.1, 0.2, 0.3, 0.4, 0.5))


def test_a_continuous_row_has_no_list_of_values() -> None:
    for row in space("features.token_ratio: {low: 0.1, high: 0.5}, side.depth: {low: 1, high: 8, log: true}").rows:
        with pytest.raises(ConfigError, match="searched continuously"):
            row.values()


def test_a_proposal_becomes_a_trial() -> None:
    trial = parse_space(PAPER).trial({"side.depth": 4, "features.token_ratio": 0.1})
    assert (trial.side.depth, trial.features.token_ratio, trial.training.epochs) == (4, 0.1, 3)
    assert trial.backbone.name == "vit_small_patch16_224"


BAD_ROWS = {
    "side.depht: {low: 1, high: 3}": r"space\.side\.depht: unknown name; did you mean 'side\.depth'\?",
    "side.depth: {low: 3, high: 1}": r"space\.side\.depth: low 3 is above high 1; the range is empty",
    "side.depth: {choices: []}": r"space\.side\.depth\.choices is \[\]; the range is empty",
    "side.depth: {choices: 4}": r"space\.side\.depth\.choices is 4",
    "side.depth: {low: 1}": r"space\.side\.depth is \{'low': 1\}; give",
    "side.depth: {low: 1, high: 3, choices: [1]}": r"space\.side\.depth is .*; give",
    "side.depth: 4": r"space\.side\.depth is 4; give",
    "side.depth: {low: 1, high: 3, stepp: 1}": r"space\.side\.depth: unknown key 'stepp'; did you mean 'step'\?",
    "side.depth: {low: 1.5, high: 3}": r"space\.side\.depth\.low is 1\.5; it takes a whole number",
    "side.depth: {low: 1, high: many}": r"space\.side\.depth\.high is 'many'; it takes a whole number",
    "side.depth: {low: 1, high: 3, step: 0}": r"space\.side\.depth: step is 0",
    "side.depth: {low: 1, high: 4, step: 1, log: true}": r"space\.side\.depth: step is 1; .* without log",
    "side.num_prompts: {low: 0, high: 4, log: true}": r"space\.side\.num_prompts: low is 0; a logarithmic range",
    "side.num_prompts: {choices: [4, few]}": r"space\.side\.num_prompts is 'few'",
    "features.window: {choices: [[40, 400], [50, 350]]}": r"space\.features\.window: .* several numbers, .*give points",
    "method: {low: 0, high: 1}": r"space\.method: method is no number; give \{choices",
    "method: {choices: [fpt, lorra]}": r"space\.method is 'lorra'; choose one of",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_bad_rows_are_refused(row: str) -> None:
    with pytest.raises(ConfigError, match=BAD_ROWS[row]):
        space(row)


BAD_SPACES = {
    "- side.depth": "a search space is a mapping",
    "": "a search space is a mapping",
    "space: {": "not YAML",
    "spaces: {}": r"unknown key 'spaces'; did you mean 'space'\?",
    "space: [side.depth]": "space is .* must be a mapping",
    "fixed: 3": "fixed is 3; it must be a mapping",
    "fixed: {side.depht: 3}": r"unknown name 'side\.depht'; did you mean 'side\.depth'\?",
    "fixed: {side.depth: 0}": r"side\.depth is 0; it must be larger than 0",
    "objectives: {auc: max}": r"objectives: unknown objective 'auc'; did you mean 'val_auc'\?",
    "objectives: {val_auc: up}": r"objectives\.val_auc is 'up'; choose max or min",
    "sampler: gird": "sampler is 'gird'; choose one of tpe, nsga2, gp, random, grid",
    "num_trials: many": "num_trials is 'many'",
    "seed: 0.5": "seed is 0.5",
    "fixed: {side.depth: 3}\nspace: {side.depth: {low: 1, high: 3}}": r"side\.depth is both searched and fixed",
    "constraints: {param_ration: {max: 1}}": r"constraints: unknown name 'param_ration'; did you mean 'param_ratio'",
    "constraints: {param_ratio: 0.1}": r"constraints\.param_ratio is 0\.1; give \{max",
    "constraints: {param_ratio: {max: few}}": r"constraints\.param_ratio\.max is 'few'; it takes a number",
    "early_stopping: hyperband": r"early_stopping is 'hyperband'; choose one of none, asha, median",
    "points: {A: lora}": r"points\.A is 'lora'; it must be a mapping",
    "points: {A: {method: lorra}}": r"points\.A: method is 'lorra'",
    "points: {A: {side.depth: 3}}\nspace: {side.depth: {low: 1, high: 3}}": r"points\.A: side\.depth is also a row",
    "points: {A: {}}\nrepeats: 0": "repeats is 0; it must be at least 1",
    "points: {A: {}}\nchoose: [side.depth]": r"choose: 'side\.depth' must be a row",
    "sampler: grid\nspace: {training.learning_rate: {low: 0.1, high: 0.5}}": r"learning_rate is searched continuously",
}


@pytest.mark.parametrize("text", BAD_SPACES)
def test_bad_spaces_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=BAD_SPACES[text]):
        parse_space(text)


def test_points_are_crossed_with_rows_and_conditions_hold() -> None:
    found = parse_space(
        "points: {A: {method: lora}, B: {}}\nsampler: grid\n"
        "space: {petl.rank: {choices: [4, 8], when: {method: lora}}, training.seed: {choices: [0, 1]}}"
    )
    grid = [(found.trial(values).method, *list(values.values())[1:]) for values in found.grid()]
    assert grid == [("lora", 4, 0), ("lora", 4, 1), ("lora", 8, 0), ("lora", 8, 1), ("fpt+", 0), ("fpt+", 1)]
    assert found.num_trials == 6


def test_stores_are_one_for_each_reader_and_resolution() -> None:
    found = parse_space(
        "points: {A: {method: lora}, B: {method: bitfit}, C: {side.depth: 4}, D: {side.depth: 9}}\nsampler: grid\n"
        "space: {features.resolution: {choices: [128, 256]}}"
    ).stores()
    trials = [need.trial for need in found]
    kinds = [(reads_images(trial), trial.features.resolution, trial.side.depth) for trial in trials]
    assert sorted(kinds) == [(False, 128, 9), (False, 256, 9), (True, 128, 6), (True, 256, 6)]


def test_fixed_values_are_set_from_the_command_line() -> None:
    found = parse_space("points: {A: {method: lora}}")
    changed = with_fixed(found, ["training.epochs=3", "backbone.weights=a.pth"])
    trial = changed.trial({"point": "A"})
    assert (trial.training.epochs, trial.backbone.weights, trial.method) == (3, "a.pth", "lora")
    assert "--set training.epochs=3" in changed.text
    for setting, message in {
        "training.epochs": "give dotted.name=value",
        "training.epoch=3": "did you mean",
        "side.blocks=[3, 6": "whose value is no YAML",
        "backbone.weights=@w.pth": "whose value is no YAML",
    }.items():
        with pytest.raises(ConfigError, match=message):
            with_fixed(found, [setting])


def test_yaml_runs_nothing() -> None:
    with pytest.raises(ConfigError, match="not YAML"):
        parse_space("space: !!python/object/apply:os.getcwd []")


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("space: {side.depht: {low: 1, high: 3}}")
    with pytest.raises(ConfigError, match=rf"^{path}: space\.side\.depht"):
        load_space(path)
    path.write_text(PAPER)
    assert load_space(str(path)) == parse_space(PAPER)


@pytest.mark.parametrize("name", ["absent.yaml", "folder", "latin.yaml"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.yaml").write_bytes("space: {} # Größe".encode("latin-1"))
    with pytest.raises(ConfigError, match=rf"{name}: the search space cannot be read"):
        load_space(tmp_path / name)


# --- conditional rows -----------------------------------------------------------------------------------------

CONDITIONAL = """
method: {choices: [fpt+, fpt]},
side.shared_norm: {choices: [true, false], when: {method: fpt+}},
side.num_prompts: {choices: [4, 8], when: {method: [fpt+], side.shared_norm: [true]}}
"""


def test_a_row_is_active_where_its_conditions_hold() -> None:
    _, norm, prompts = space(CONDITIONAL).rows
    assert norm.active({"method": "fpt+"})
    assert not norm.active({"method": "fpt"})
    assert prompts.active({"method": "fpt+", "side.shared_norm": True})
    assert not prompts.active({"method": "fpt+", "side.shared_norm": False})
    assert not prompts.active({"method": "fpt+"})  # the row it depends on is not active itself
    assert not prompts.active({})


def test_a_row_without_conditions_is_always_active() -> None:
    assert space(CONDITIONAL).rows[0].active({})


@pytest.mark.parametrize("other", ["side.resolution", "side.num_prompts", "side.depth"])
def test_a_condition_must_be_on_a_row_above(other: str) -> None:
    rows = f"side.depth: {{low: 1, high: 3, when: {{{other}: 4}}}}, side.num_prompts: {{choices: [4, 8]}}"
    with pytest.raises(ConfigError, match=rf"space\.side\.depth\.when: '{other}' must be a row that stands above"):
        space(rows)


# --- what a space needs of its stores -------------------------------------------------------------------------


def test_the_widest_value_is_searched_or_fixed() -> None:
    found = parse_space(PAPER)
    assert found.widest("features.token_ratio") == 0.2
    assert found.widest("side.depth") == 12
    assert found.widest("side.num_prompts") == 64
    assert found.widest("training.epochs") == 3
    assert found.widest("side.reduction") == 8


def test_a_conditional_row_is_at_least_as_wide_as_what_stands_without_it() -> None:
    rows = "method: {choices: [fpt+, fpt]}, side.depth: {choices: [2, 4], when: {method: fpt+}}"
    assert space(rows).widest("side.depth") == 6  # an FPT trial keeps the default
    assert space(rows).values_of("side.depth") == (2, 4, 6)
    assert space(rows.replace("[2, 4]", "[2, 8]")).widest("side.depth") == 8


def test_values_are_searched_or_fixed() -> None:
    found = parse_space(PAPER)
    assert found.values_of("side.resolution") == (64, 128, 192, 256)
    assert found.values_of("features.resolution") == (512,)
    assert found.values_of("training.epochs") == (3,)


def test_one_store_serves_what_a_store_can_be_sliced_to() -> None:
    (need,) = parse_space(PAPER).stores()
    trial = need.trial
    assert (trial.features.token_ratio, trial.side.depth, need.side_resolutions) == (0.2, 12, (64, 128, 192, 256))
    assert (trial.features.resolution, trial.backbone.name) == (512, "vit_small_patch16_224")


def test_each_resolution_and_importance_has_its_store() -> None:
    found = space(
        "features.resolution: {choices: [384, 512]}, features.importance: {choices: [global, class_token]},"
        " side.depth: {low: 2, high: 4}"
    )
    trials = [need.trial for need in found.stores()]
    stores = [(trial.features.resolution, trial.features.importance, trial.side.depth) for trial in trials]
    assert stores == [(384, "global", 4), (384, "class_token", 4), (512, "global", 4), (512, "class_token", 4)]


def test_a_resolution_searched_continuously_has_no_stores() -> None:
    found = space("features.resolution: {low: 224, high: 512, log: true}")
    with pytest.raises(ConfigError, match=r"features\.resolution is searched continuously"):
        found.stores()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_trials: 3", "space is empty"),
        ("space: {side.depth: {low: 1, high: 3}}\nnum_trials: 0", "num_trials is 0"),
        ("space: {side.depth: {low: 1, high: 3}}\nseed: -1", "seed is -1"),
        ("space: {features.token_ratio: {low: 0.1, high: 3}}", r"space\.features\.token_ratio: .* at most 1"),
        ("space: {side.depth: {choices: [1], low: 2}}", r"give \{low"),
        ("space: {side.depth: {low: 1, high: 3, when: 4}}", r"side\.depth\.when is 4"),
        ("space: {side.depth: {low: 1, high: 3, when: {side.typo: 4}}}", "unknown name 'side.typo'"),
        (
            "space: {method: {choices: [fpt]}, side.depth: {low: 1, high: 3, when: {method: fptt}}}",
            "choose one of 'fpt",
        ),
        ("space: {side.depth: {low: 1, high: 3}}\nfixed: {1: 2}", "unknown name '1'"),
        ("space: {side.depth: {low: 1, high: 3}}\nfixed: {backbone.name: [a]}", "takes a text"),
        ("space: {side.depth: {low: 1, high: 3}}\nfixed: {features.std: [0, 1, 1]}", r"features\.std is"),
    ],
)
def test_more_bad_spaces_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_space(text)


def test_conditions_have_their_fields_type() -> None:
    found = space(
        "training.learning_rate: {choices: [1e-4, 1e-3]}, "
        "side.depth: {low: 1, high: 3, when: {training.learning_rate: 1e-4}}"
    )
    assert found.rows[1].active({"training.learning_rate": 0.0001})


def test_the_widest_is_reached() -> None:
    assert space("side.depth: {low: 6, high: 13, step: 6}").widest("side.depth") == 12
    assert space("side.prompt_width: {choices: [null, 96]}").widest("side.prompt_width") == 96


def test_what_changes_the_features_has_a_store_of_its_own() -> None:
    assert len(space("features.dtype: {choices: [float16, float32]}, side.depth: {low: 1, high: 3}").stores()) == 2


def test_a_row_holds_its_ends_and_what_lies_on_its_steps_between():
    plain, stepped = SearchRow(name="side.depth", low=2, high=6), SearchRow(name="side.depth", low=2, high=6, step=2)
    assert [value for value in range(1, 8) if plain.holds(value)] == [2, 3, 4, 5, 6]
    assert [value for value in range(1, 8) if stepped.holds(value)] == [2, 4, 6]
    assert not plain.holds("3")
    chosen = SearchRow(name="petl.rank", choices=(None, 8, 4))
    assert [value for value in (None, 4, 6, 8) if chosen.holds(value)] == [None, 4, 8]
    assert (plain.widest(), stepped.widest(), chosen.widest()) == (6, 6, 8)


def test_every_condition_of_a_row_must_hold():
    row = SearchRow(name="side.depth", low=1, high=2, when={"method": ("fpt", "fpt+"), "side.num_prompts": (4,)})
    found = [row.active({"method": method, "side.num_prompts": n}) for method in ("fpt", "lora") for n in (4, 8)]
    assert found == [True, False, False, False]
