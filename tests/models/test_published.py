"""Checkpoints in the layouts in which people publish them, each made from a random model: its weights come back."""

import argparse

import pytest
import torch
from safetensors.torch import save_file

from fpt_ray.config.trial import BackboneConfig
from fpt_ray.errors import ConfigError
from fpt_ray.models.backbone import backbone_shape, create_vit
from fpt_ray.models.weights import load_backbone, weights_digest
from tests.conftest import SMALL

ROTARY = "vit_small_patch16_dinov3"


def weights_of(name):
    torch.manual_seed(5)
    return create_vit(name, pretrained=False).state_dict()


def with_prefix(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def mae(state):
    decoder = {"mask_token": torch.zeros(1, 1, 512), "decoder_pos_embed": torch.zeros(1, 5, 512)}
    blocks = {f"decoder_blocks.{n}.norm1.weight": torch.ones(512) for n in range(8)}
    return {"model": {**state, **decoder, **blocks}, "args": argparse.Namespace(lr=1e-3), "epoch": 799}


def dino(state):
    head = {"head.mlp.0.weight": torch.zeros(8, 192)}
    teacher = {**with_prefix(state, "backbone."), **head}
    return {"student": with_prefix(state, "module.backbone."), "teacher": teacher, "epoch": 100}


LAYOUTS = {
    "plain": (lambda state: state, "head.* (2)"),
    "trainer": (lambda state: {"state_dict": with_prefix(state, "module."), "optimizer": {}}, "optimizer"),
    "mae": (mae, "args, epoch, mask_token, decoder_pos_embed, decoder_blocks.* (8)"),
    "dino": (dino, "student, epoch, head"),
    "wrapped": (lambda state: {"model": with_prefix(state, "module.encoder.")}, "head.* (2)"),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("name", [SMALL, ROTARY])
def test_the_backbones_weights_come_back(layout, name, tmp_path, capsys):
    state = weights_of(name)
    make, dropped = LAYOUTS[layout]
    if name == ROTARY:
        dropped = dropped.replace("head.* (2)", "")  # it is made without classes
    path = tmp_path / "weights.pth"
    torch.save(make(state), path)
    found = load_backbone(BackboneConfig(name=name, weights=str(path)), 224)
    for key, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[key]), key
    said = capsys.readouterr().err
    for part in dropped.split(", "):
        assert part in said


def test_a_safetensors_file_has_the_same_digest(tmp_path):
    state = weights_of(SMALL)
    torch.save(dino(state), tmp_path / "dino.pth")
    save_file(with_prefix(state, "backbone."), tmp_path / "plain.safetensors")
    configs = [BackboneConfig(name=SMALL, weights=str(tmp_path / file)) for file in ("dino.pth", "plain.safetensors")]
    assert len({weights_digest(load_backbone(config, 224)) for config in configs}) == 1


def test_what_holds_no_weights_or_unknown_ones_is_refused(tmp_path):
    for content, message in (
        ({"epoch": 3}, "it holds no weights by name"),
        ({"model": {**weights_of(SMALL), "extra.weight": torch.zeros(2)}}, r"unknown \['extra\.weight'\]"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ConfigError, match=message):
            load_backbone(BackboneConfig(name=SMALL, weights=str(tmp_path / "w.pth")), 224)


def test_a_local_folder_as_timm_writes_it_is_a_backbone(tmp_path):
    """``local-dir:`` names, with which a model that was saved for the Hugging Face Hub is found without it."""
    from timm.models import save_for_hf

    torch.manual_seed(5)
    model = create_vit(SMALL, pretrained=False)
    save_for_hf(model, str(tmp_path / "mine"))
    found = load_backbone(BackboneConfig(name=f"local-dir:{tmp_path / 'mine'}"), 224)
    assert torch.equal(found.cls_token, model.cls_token)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"backbone\.name is 'local-dir:.*/none', which cannot be had \("):
        backbone_shape(f"local-dir:{tmp_path}/none")
    with pytest.raises(ConfigError, match="is 'local-dir:mine'; give the folder from the root"):
        backbone_shape("local-dir:mine")
