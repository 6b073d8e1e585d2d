"""Imports run core <- edge <- room (DESIGN): what a fresh interpreter has loaded after importing each layer."""

import subprocess
import sys

import pytest

CORE = (
    "allocator authors_layout backbone config datasets demo flops fundus images importance intervals lanes loop "
    "measurement methods metrics online onnx_weights paper paper_tables prediction side_network space space_yaml "
    "terminal trace"
)
STORE = "rows s3 shards storage store store_spec trial verification"
TRACKING = "confirmation front pictures provenance tracking tracking_uri what_if"
TABLES = "figures layouts ledger scaling tables typesetting"

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
