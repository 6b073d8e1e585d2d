"""A study of each kind of task, from a table of images to its report, by the command as a user runs it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fpt_ray.config.tasks import SCORES, TITLES
from fpt_ray.errors import ConfigError
from fpt_ray.predict.finding import bundle_named
from fpt_ray.report.command import report
from fpt_ray.tracking import runs as tracking
from fpt_ray.tracking.server import default_uri, open_tracking
from fpt_ray.tune.command import Command, run

pytestmark = pytest.mark.usefixtures("cluster")
SPACE = """
space: {method: {choices: [knn, stored_linear_probe, fpt+]}}
sampler: grid
OBJECTIVES
fixed:
  backbone.name: vit_tiny_patch16_224
  backbone.weights: random
  features.resolution: 64
  side.depth: 2
  side.resolution: 32
  side.reduction: 4
  training.epochs: 2
  training.batch_size: 8
"""
OBJECTIVES = {
    "ordinal": ("kappa", "training.select_by: kappa", "objectives: {val_kappa: max, val_auc: max, val_mae: min}"),
    "multilabel": ("auc", "", "objectives: {val_auc: max, val_average_precision: max, ppe: max}"),
    "regression": ("r2", "", ""),
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Sixty images whose brightness tells their labels; of the test split grade 3 has none, some labels are missing."""
    folder = tmp_path_factory.mktemp("drawn")
    generator = np.random.default_rng(0)
    kinds = np.arange(60) % 4
    splits = np.array(["train"] * 36 + ["val"] * 12 + ["test"] * 12)
    kinds[(splits == "test") & (kinds == 3)] = 2
    for number, kind in enumerate(kinds):
        pixels = generator.integers(0, 60, (64, 64, 3)) + 60 * kind
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    x, y = (kinds >= 2).astype(float), (kinds == 1).astype(float)
    x[::7] = np.nan
    columns = {"path": [f"{number}.png" for number in range(60)], "split": splits}
    labels = {
        "ordinal": {"label": kinds},
        "multilabel": {"x": pa.array(x, from_pandas=True), "y": y},
        "regression": {"label": 40.0 + 10.5 * kinds},
    }
    for task, own in labels.items():
        pq.write_table(pa.table({**columns, **own}), folder / f"{task}.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", OBJECTIVES)
def test_a_study_of_each_task_ends_with_its_scores_and_a_report(task, tables, workdir, tmp_path, capsys):
    score, fixed, objectives = OBJECTIVES[task]
    space = tmp_path / f"{task}.yaml"
    space.write_text(SPACE.replace("OBJECTIVES", objectives) + (f"  {fixed}\n" if fixed else ""))
    columns = ("label=x,y",) if task == "multilabel" else ()
    options = Command(space=str(space), images=f"{tables}/{task}.parquet", workdir=workdir, columns=columns, task=task)
    run(options)
    shown = capsys.readouterr()
    assert f"val {TITLES[score]}" in shown.err
    assert f"test {TITLES[score]}" in shown.out
    client = open_tracking(default_uri(workdir))
    study = tracking.find_study(client, task)
    assert study.score == score
    records = tracking.read_trials(client, study)
    assert {record.params["method"] for record in records} == {"knn", "stored_linear_probe", "fpt+"}
    for record in records:
        assert record.status == "FINISHED", record.reason
        assert {f"test_{name}" for name in SCORES[task]} <= record.metrics.keys()
        assert record.params["training.select_by"] == score
        assert ("ppe" in record.metrics) == (score == "auc")
    best = max(record.metrics[f"test_{score}"] for record in records)
    assert best > 0.5
    if task == "ordinal":
        assert "test lacks 1 of 4 classes" in shown.err
    (report(task, tracking_uri=default_uri(workdir), workdir=workdir))
    assert TITLES[score] in capsys.readouterr().out
    assert Path(workdir, "studies", task, "front.png").exists()
    assert Path(bundle_named(task, workdir), "model.safetensors").exists()


@pytest.mark.parametrize(
    ("task", "more", "message"),
    [
        ("regression", "objectives: {val_auc: max}", r"val_auc is no score of the task regression; take one of val_r2"),
        ("regression", "objectives: {val_r2: max, ppe: max}", "there are no ppe and pme of r2, which may be negative"),
        ("multilabel", "constraints: {val_kappa: {min: 0.1}}", "val_kappa is no score of the task multilabel"),
    ],
)
def test_what_is_no_score_of_the_task_is_refused_before_any_image_is_opened(task, more, message, tables, tmp_path):
    workdir = tmp_path / "work"
    space = tmp_path / "refused.yaml"
    space.write_text(SPACE.replace("OBJECTIVES", more))
    columns = ("label=x,y",) if task == "multilabel" else ()
    options = {"images": f"{tables}/{task}.parquet", "workdir": str(workdir), "columns": columns, "task": task}
    with pytest.raises(ConfigError, match=message):
        run(Command(space=str(space), **options))
    assert not any((workdir / name).exists() for name in ("images", "features", "studies/refused/optuna.log"))
