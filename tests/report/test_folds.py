"""The table of a data set's folds against means and deviations by hand."""

import dataclasses
import statistics

import pytest

from fpt_ray.errors import ConfigError
from fpt_ray.report.folds import over_folds
from tests.report.test_report import metrics_of, record, result

VAL = {4: (0.8, 0.7, 0.9), 8: (0.6, 0.6, 0.9)}
TEST = {4: (0.7, 0.7, 0.85), 8: (0.5, 0.6, 0.55)}


def study(fold, number=3, prompts=(4, 8), fixed=None, **changes):
    """The study of a fold, whose trials end in any order."""
    records = [
        record(
            at,
            params={"side.num_prompts": count, **(fixed or {})},
            **{**metrics_of(VAL[count][fold - 1], 0.02), "test_auc": TEST[count][fold - 1]},
        )
        for at, count in enumerate(prompts)
    ]
    found = result(records, note=f"some images; validated by fold {fold} of {number}")
    return dataclasses.replace(found, name=f"s-fold{fold}", **changes)


def cells(table):
    return {column.title: [cell.text for cell in column.cells] for column in table.columns}


def test_each_configuration_has_its_mean_and_deviation_over_the_folds():
    table = over_folds([study(1), study(2, prompts=(8, 4)), study(3)])
    assert [label.split(" ")[0] for label in table.labels] == ["side.num_prompts=4", "side.num_prompts=8"]
    for title, values in (("val AUC", VAL), ("test AUC", TEST)):
        assert cells(table)[title] == [
            f"{100 * statistics.fmean(one):.2f} ± {100 * statistics.stdev(one):.2f}" for one in values.values()
        ]
    assert table.footnotes == []
    assert table.title.startswith("3 of 3 folds")


def test_seeds_and_where_weights_lie_may_differ_and_an_earlier_version_may_lack_a_field():
    other = study(2, fixed={"training.seed": 7, "backbone.weights": "/mnt/vit.safetensors"})
    trials = tuple(
        dataclasses.replace(one, params={name: text for name, text in one.params.items() if name != "side.blocks"})
        for one in other.trials
    )
    assert len(over_folds([study(1), dataclasses.replace(other, trials=trials)]).labels) == 2


def test_what_is_missing_is_said():
    table = over_folds([study(3, prompts=(4,)), study(1)])
    assert table.title.startswith("2 of 3 folds")
    assert len(table.labels) == 1
    assert table.footnotes == [
        "Folds 2 of 3 are not among them.",
        "1 configurations are left out, which not every fold has.",
    ]
    bare = study(2)
    trials = tuple(dataclasses.replace(one, metrics=metrics_of(0.5, 0.02)) for one in bare.trials)
    assert cells(over_folds([study(1), dataclasses.replace(bare, trials=trials)]))["test AUC"] == ["-", "-"]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([study(1)], "the studies have the folds 1, 1; give one of each"),
        ([study(2, number=4)], "number of folds: 3 in s-fold1, 4 in s-fold2"),
        ([study(2, score="f1")], "score: auc in s-fold1, f1 in s-fold2; give studies of one space"),
        ([study(2, searched=("method",))], "searched rows: "),
        (
            [study(2, fixed={"training.epochs": 5})],
            "training.epochs of side.num_prompts=4 .*: 20 in s-fold1, 5 in s-fold2; give studies of one space",
        ),
        ([study(2, data_note="others; validated by fold 2 of 3")], "images: some images; .* in s-fold1, others; "),
        ([study(2, data_note="")], "study s-fold2 has no fold; give studies of tune --folds"),
        ([study(2, trials=())], "no configuration has been trained to its end in all"),
    ],
)
def test_studies_that_are_not_of_one_grids_folds_are_refused(others, said):
    with pytest.raises(ConfigError, match=said):
        over_folds([study(1), *others])
