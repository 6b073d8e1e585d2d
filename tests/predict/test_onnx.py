"""A bundle as an ONNX file, run by onnxruntime, against the bundle itself and against Pillow."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from fpt_ray.__main__ import main
from fpt_ray.config.trial import Method, override
from fpt_ray.errors import ConfigError
from fpt_ray.images.picture import resize
from fpt_ray.metrics.calibration import calibrated
from fpt_ray.predict import onnx_file
from fpt_ray.predict.classifier import load
from fpt_ray.predict.onnx_file import write_onnx
from fpt_ray.predict.onnx_network import Smaller, tempered
from fpt_ray.train.bundle import read_bundle
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images

IMAGES = np.random.default_rng(5).integers(0, 256, (5, 64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_of_images(draw_images(tmp_path_factory.mktemp("images")))


def bundle_of(method, table, folder, seeds=1, **changes):
    trial = override(TRIAL, {"method": method, **changes})
    return left(trial, stored(trial, table, folder / "store"), folder, seeds=seeds)


def run(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["probabilities"], {"images": images})[0], session.get_modelmeta().custom_metadata_map


@pytest.mark.parametrize(
    "method",
    [pytest.param(one, marks=() if one == "layer_fusion" else pytest.mark.slow) for one in Method.__args__],
)
def test_the_file_says_of_any_number_of_images_what_the_bundle_says(method, table, tmp_path, capsys):
    uri = bundle_of(method, table, tmp_path, seeds=2 if method == "probe" else 1)
    file = tmp_path / "deep/model.onnx"
    main(["predict", "export", uri, "--onnx", str(file)])
    assert f"written to {file} (" in capsys.readouterr().out
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    for images in (IMAGES, IMAGES[:1]):
        found, said = run(file, images)
        np.testing.assert_allclose(found, load(uri).answers(images).probabilities, atol=1e-3)
    assert json.loads(said["classes"]) == ["c0", "c1", "c2"]
    assert json.loads(said["preparation"])["resolution"] == 64
    with pytest.raises(ConfigError, match="is there already"):
        write_onnx(read_bundle(uri), str(file))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fpt+", "linear_probing"])
def test_in_half_precision_the_file_is_half_as_large(method, table, tmp_path):
    bundle = read_bundle(bundle_of(method, table, tmp_path))
    write_onnx(bundle, str(tmp_path / "half.onnx"), "float16")
    found, _ = run(tmp_path / "half.onnx", IMAGES)
    np.testing.assert_allclose(found, load(str(tmp_path / "bundle")).answers(IMAGES).probabilities, atol=1e-2)
    assert 10e6 < (tmp_path / "half.onnx").stat().st_size < 14e6, "5.7 M weights"


@pytest.mark.slow
def test_what_is_frozen_is_in_the_file_once_for_all_seeds(table, tmp_path):
    write_onnx(read_bundle(bundle_of("linear_probing", table, tmp_path, seeds=2)), str(tmp_path / "two.onnx"))
    assert (tmp_path / "two.onnx").stat().st_size < 1.1 * 4 * 5.6e6
    found, _ = run(tmp_path / "two.onnx", IMAGES)
    np.testing.assert_allclose(found, load(str(tmp_path / "bundle")).answers(IMAGES).probabilities, atol=1e-3)


@pytest.mark.slow
def test_values_come_in_their_unit(table, tmp_path):
    values = dataclasses.replace(table, task="regression", classes=("mm",), labels=40.0 + 10.5 * table.labels)
    uri = bundle_of("probe", values, tmp_path)
    write_onnx(read_bundle(uri), str(tmp_path / "m.onnx"))
    found, _ = run(tmp_path / "m.onnx", IMAGES)
    np.testing.assert_allclose(found, load(uri).answers(IMAGES).probabilities, rtol=1e-4)


def test_the_low_resolution_is_pillows():
    for resolution, side in ((64, 32), (98, 28), (60, 60)):
        images = np.random.default_rng(0).integers(0, 256, (2, resolution, resolution, 3), np.uint8)
        found = Smaller(resolution, side)(torch.from_numpy(images)).permute(0, 2, 3, 1).numpy() * 255
        expected = np.stack([resize(one, side) for one in images]).astype(int)
        assert np.abs(found - expected).max() <= 1.01, "its weights are rounded to 22 bits"
        assert np.mean(np.round(found) != expected) < 1e-3


@pytest.mark.parametrize(
    ("task", "by"), [("multiclass", (1.7,)), ("ordinal", (2.5,)), ("multilabel", (0.5, 3.0)), ("regression", ())]
)
def test_temperatures_are_those_of_the_bundle(task, by):
    said = np.random.default_rng(0).dirichlet((1, 1, 1)[: 2 + (task == "ordinal")], 20).astype(np.float32)
    found = tempered(torch.from_numpy(said), by, task).numpy()
    np.testing.assert_allclose(found, calibrated(said, by, task), atol=1e-6)


@pytest.mark.slow
def test_what_cannot_be_written_is_refused_and_a_file_that_differs_is_not_kept(table, tmp_path, monkeypatch):
    bundle = read_bundle(bundle_of("stored_linear_probe", table, tmp_path))
    with pytest.raises(ConfigError, match=r"give a local file that ends in .onnx"):
        write_onnx(bundle, str(tmp_path / "m.bin"))
    monkeypatch.setitem(onnx_file._LIKE, "float32", 1e-12)
    with pytest.raises(ConfigError, match=r"differs from the bundle by .* is not kept"):
        write_onnx(bundle, str(tmp_path / "m.onnx"))
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: 1 / 0)
    with pytest.raises(ConfigError, match=r"method is stored_linear_probe, which cannot be written as ONNX with vit_"):
        write_onnx(bundle, str(tmp_path / "m.onnx"))
    assert not list(tmp_path.glob("*.onnx*"))
    assert not [path for path in Path(tmp_path).iterdir() if path.name.startswith(".onnx-")]
