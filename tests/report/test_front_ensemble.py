"""The ensemble of the made study's front, against means and scores that are written out here."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fpt_ray.report.front_ensemble import front_ensemble_table
from fpt_ray.report.publication import report_text
from fpt_ray.report.result import read_result
from fpt_ray.tracking.server import open_tracking
from tests.report.made_study import TRIALS, labels_of, make_study, said_of

FRONT = [3, 2, 1]  # by the validation AUC
TEMPERATURE = 2.0


@pytest.fixture
def made(tmp_path):
    uri = make_study(tmp_path)
    return open_tracking(uri), read_result(open_tracking(uri), "made", uri, str(tmp_path)), tmp_path / "studies/made"


def tempered(number):
    logits = np.log(said_of(TRIALS[number][2], number).astype(float)) / TEMPERATURE
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def row_of(table, score):
    at = [cell.text for cell in table.columns[0].cells].index(score)
    return [column.cells[at].text for column in table.columns[1:]]


def test_it_is_the_mean_of_calibrated_answers_beside_the_best(made):
    client, result, _ = made
    table = front_ensemble_table(client, result)
    mean = np.mean([tempered(number) for number in FRONT], axis=0)[:, 1]
    together, alone = (100 * roc_auc_score(labels_of("test"), said) for said in (mean, tempered(3)[:, 1]))
    shown = row_of(table, "AUC")
    assert shown[:3] == [f"{together:.2f}", f"{alone:.2f}", f"{together - alone:.2f}"]
    assert float(shown[3]) < float(shown[2]) < float(shown[4])
    assert table.title.startswith("The ensemble of 3 of the front's 4 trials")
    assert table.columns[2].title == "trial 3 alone"
    learnt = sum(1e5 * TRIALS[number][0] for number in FRONT)
    assert f"Learnt parameters {learnt:,.0f} in sum (3,200,000 of the best alone)" in table.footnotes[0]
    assert table.title in report_text(result).replace("\n", " ")


def test_trials_without_a_bundle_or_of_other_images_are_left_out_and_counted(made):
    client, result, folder = made
    bundle = folder / "bundles/trial-0002/bundle.json"
    document = json.loads(bundle.read_text())
    bundle.write_text(json.dumps({name: value for name, value in document.items() if name != "temperatures"}))
    assert front_ensemble_table(client, result).title.startswith("The ensemble of 2 of the front's 4 trials")
    (folder / "bundles/trial-0001/bundle.json").unlink()
    assert front_ensemble_table(client, result) is None
