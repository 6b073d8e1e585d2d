"""Images and a bundle of theirs, trained once for all of this room's tests that change neither."""

import pytest

from fpt_ray.config.trial import override
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images


@pytest.fixture(scope="package")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="package")
def bundle(images, tmp_path_factory):
    """Of two seeds of a probe, whose states are written into one network in turn."""
    folder, table = tmp_path_factory.mktemp("bundle"), table_of_images(images)
    trial = override(TRIAL, {"method": "probe"})
    return left(trial, stored(trial, table, folder / "store"), folder, seeds=2)
