"""Imports run core <- edge <- room (DESIGN): what a fresh interpreter has loaded after importing each layer."""

import subprocess
import sys

import pytest

CORE = "errors display.terminal config.trial config.space config.space_yaml metrics.scores metrics.pareto metrics.intervals images.sources images.table images.decoding images.pixels images.augmentation models.backbone models.weights models.onnx_weights models.importance models.side_network models.online models.methods cost.allocator cost.execution cost.trace cost.prediction cost.measurement cost.paper_rows train.order train.loop paper.numbers"  # noqa: E501
STORE = "storage.files storage.s3 features.spec features.shards features.store features.rows features.serving features.verification train.checkpoint train.seeds train.best"  # noqa: E501
TRACKING = "report.confirmation report.front report.pictures tracking.provenance tracking.runs tracking.server"
TABLES = "display.typesetting display.charts paper.layouts paper.tables paper.figures report.ledger bench.scaling"

PROGRAM = """
import importlib, sys
forbidden, modules = sys.argv[1].split(), sys.argv[2].split()
for name in modules:
    importlib.import_module(f"fpt_ray.{name}")
    found = [other for other in forbidden if other in sys.modules]
    if found:
        sys.exit(f"fpt_ray.{name} imports {found}")
"""


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (CORE, "ray mlflow boto3 optuna tyro"),
        (STORE, "ray mlflow boto3 optuna tyro"),
        (TRACKING, "ray boto3 optuna tyro torch"),
        (TABLES, "ray mlflow boto3 optuna tyro torch"),
    ],
    ids=["core", "store", "tracking", "tables"],
)
def test_a_layer_knows_only_what_is_below_it(modules, forbidden):
    done = subprocess.run([sys.executable, "-c", PROGRAM, forbidden, modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
