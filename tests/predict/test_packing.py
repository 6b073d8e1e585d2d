"""A bundle with the LPM's weights in it, where the file that it was trained with is gone: against that file."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fpt_ray.__main__ import main
from fpt_ray.config.trial import BackboneConfig, override
from fpt_ray.errors import ConfigError
from fpt_ray.models import weights
from fpt_ray.models.backbone import create_vit
from fpt_ray.models.weights import backbone_bytes, known_weights
from fpt_ray.predict.classifier import load
from fpt_ray.predict.packing import write_packed
from fpt_ray.train.bundle import BACKBONE_FILE, read_bundle
from tests.predict.bundles import TRIAL, left, stored, table_of_images
from tests.stores import draw_images


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return table_of_images(draw_images(tmp_path_factory.mktemp("images")))


def weights_file(folder, name="vit_tiny_patch16_224"):
    """Every weight of a ViT, drawn anew, as people publish them."""
    torch.manual_seed(3)
    state = create_vit(name, pretrained=False).state_dict()
    save_file({key: torch.randn_like(value) * 0.02 for key, value in state.items()}, folder / "vit.safetensors")
    return str(folder / "vit.safetensors")


@pytest.fixture(scope="module")
def packed(table, tmp_path_factory):
    """(bundle, copy with the LPM in it, one left with it, what the first said), the file of the weights gone."""
    folder = tmp_path_factory.mktemp("packed")
    trial = override(TRIAL, {"method": "probe", "backbone.weights": weights_file(folder)})
    store = stored(trial, table, folder / "store")
    (folder / "whole").mkdir()
    bundle, whole = left(trial, store, folder), left(trial, store, folder / "whole", with_backbone=True)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    said = load(bundle).answers(images).probabilities
    Path(bundle, "evidence").mkdir()
    Path(bundle, "evidence", "00000-patient.png").write_bytes(b"of somebody")
    main(["predict", "pack", bundle, "--out", str(folder / "copy")])
    Path(trial.backbone.weights).unlink()
    return bundle, str(folder / "copy"), whole, (images, said)


def test_it_says_the_same_where_the_weights_are_gone(packed):
    bundle, copy, whole, (images, said) = packed
    for uri in (copy, whole):
        np.testing.assert_array_equal(load(uri).answers(images).probabilities, said)
        assert "lie in it and are checked: it needs no network" in Path(uri, "README.md").read_text()
    with pytest.raises(ConfigError, match=r"there is no file .*vit.safetensors"):
        load(bundle)
    assert read_bundle(copy).metrics == read_bundle(bundle).metrics
    assert not [file for file in Path(copy).rglob("*") if "patient" in file.name]
    moved = Path(copy).with_name("moved")
    shutil.copytree(copy, moved)
    assert read_bundle(str(moved)).trial.backbone.weights == f"{moved}/{BACKBONE_FILE}"


def test_weights_that_were_changed_are_refused(packed, tmp_path):
    shutil.copytree(packed[1], tmp_path / "b")
    file = tmp_path / "b" / BACKBONE_FILE
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"backbone.safetensors, the bundle's trial had .*; copy the bundle again"):
        load(str(tmp_path / "b"))
    file.write_bytes(content[:-100])
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load(str(tmp_path / "b"))


def test_what_is_there_is_left_alone(packed):
    with pytest.raises(ConfigError, match="holds files already"):
        write_packed(packed[0], packed[1])


def test_the_file_has_weights_that_published_ones_lose(tmp_path, monkeypatch):
    """A norm before the head, as timm's own weights have it, is dropped from a file that others published."""
    own, file = BackboneConfig(name="eva02_tiny_patch14_224", weights="random"), tmp_path / BACKBONE_FILE

    def with_norm(name, pretrained):
        model = create_vit(name, pretrained)
        torch.nn.init.constant_(model.fc_norm.weight, 0.5)
        return model

    with monkeypatch.context() as patched:
        patched.setattr(weights, "create_vit", with_norm)
        digest = known_weights([own], ".")[own]
        file.write_bytes(backbone_bytes(own, digest))
    again = BackboneConfig(name=own.name, weights=str(file))
    assert known_weights([again], ".")[again] == digest
    with pytest.raises(ConfigError, match=r"is of another model than backbone.name says"):
        known_weights([BackboneConfig(name="eva02_small_patch14_224", weights=str(file))], ".")
    with pytest.raises(ConfigError, match="a folder or hub that would be needed still"):
        backbone_bytes(BackboneConfig(name="local-dir:/there"), "")
