"""Bundles of the methods that have evidence, trained once for all tests of it."""

from pathlib import Path

import pytest

from fpt_ray.config.trial import override
from fpt_ray.images.table import write_table
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.predict.evidence.made import METHODS
from tests.stores import draw_images


@pytest.fixture(scope="package")
def table(tmp_path_factory):
    return table_of_images(draw_images(tmp_path_factory.mktemp("images"), per_class=(4, 2, 2)))


@pytest.fixture(scope="package")
def bundles(table, tmp_path_factory):
    """{method: a bundle of two seeds}; FPT+ in a working directory, with its store and its table."""
    found = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp("bundle")
        trial = override(TRIAL, {"method": method, "features.token_ratio": 0.4})
        trial = override(trial, {"side.depth": 12}) if method == "fpt" else trial
        store = stored(trial, table, folder / "features/store")
        found[method] = left(trial, store, folder, seeds=2)
        Path(folder, "features/store").rename(folder / "features" / store.spec.name)
        write_table(table, f"{folder}/tables/{table.digest()[:12]}.parquet")
    return found
