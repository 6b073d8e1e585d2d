"""A bundle of two classes behind the application, without Ray: trained once for all of this room's quick tests."""

import dataclasses

import numpy as np
import pytest

from fpt_ray.config.trial import override
from fpt_ray.predict.classifier import load
from fpt_ray.predict.ensemble import Ensemble, handed_over
from fpt_ray.serve import replicas
from fpt_ray.serve.answers import metadata_json
from fpt_ray.serve.app import Model
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.serve.asking import LIMITS, Alone, client_of
from tests.stores import draw_images


@pytest.fixture(scope="package")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"), per_class=(4, 4, 4))


@pytest.fixture(scope="package")
def classifier(images, tmp_path_factory):
    """Of two classes, so that there are decisions, and two seeds."""
    folder, table = tmp_path_factory.mktemp("bundle"), table_of_images(images)
    two = dataclasses.replace(table, task="binary", classes=("no", "yes"), labels=(table.labels > 0).astype(np.int64))
    trial = override(TRIAL, {"method": "probe"})
    return load(left(trial, stored(trial, two, folder / "store"), folder, seeds=2))


@pytest.fixture
def model(classifier, monkeypatch):
    """A replica in this process."""
    monkeypatch.setattr(replicas.ray, "get", lambda handed: handed)
    monkeypatch.setattr(replicas, "listen_on_loopback", lambda: None)
    replica = Alone((handed_over(Ensemble(members=(classifier,))),), 1, LIMITS.image_pixels)
    metadata = metadata_json(classifier.bundle, "d" * 64, LIMITS)
    yield Model(answer=replica.answer, check=replica.check, metadata=metadata)
    replica.decoding.shutdown()
    replica.computing.shutdown()
    replica.drawing.shutdown()


@pytest.fixture
def client(model):
    return client_of(model)
