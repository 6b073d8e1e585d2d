"""Compared with tensors recorded from the authors' code (tests/fixtures): FPT+ and FPT, inputs to gradients."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fpt_ray.authors.checkpoints import load_authors_checkpoint
from fpt_ray.authors.command import print_comparison
from fpt_ray.authors.recordings import _recorded_shape, _recorded_trial, compare
from fpt_ray.errors import ConfigError
from fpt_ray.models.side_network import SideNetwork

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["fpt_plus_small", "fpt_small"])
def test_the_authors_recording_is_reproduced(name):
    found = compare(FIXTURES / f"{name}.safetensors", FIXTURES / f"{name}.json")
    assert [difference for difference in found if not difference.ok] == []
    assert {"tokens of another set", "keys", "values", "logits", "loss", "learnable parameters"} <= {
        d.name for d in found
    }
    assert sum(difference.name.startswith("gradient") for difference in found) == 4


def test_a_wrong_recording_is_noticed(tmp_path, capsys):
    tensors = load_file(FIXTURES / "fpt_plus_small.safetensors")
    tensors["logits"][0, 0] += 1e-3
    tensors["keys"][0, 0, 0, 0] = tensors["keys"][0, 0, 0, 1]  # a token counted twice, another missing
    save_file(tensors, tmp_path / "x.safetensors")
    assert print_comparison(tmp_path / "x.safetensors", FIXTURES / "fpt_plus_small.json") == 1
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert {name for name, line in lines.items() if line.endswith("DIFFERS")} == {
        "tokens of another set",
        "keys",
        "logits",
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_is_read_and_stray_keys_are_named(suffix, tmp_path):
    tensors = load_file(FIXTURES / "fpt_plus_small.safetensors")
    settings = json.loads((FIXTURES / "fpt_plus_small.json").read_text())
    theirs = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    theirs["lpm.vit.layernorm.weight"] = torch.ones(48)
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": theirs}, path)
    else:
        save_file(theirs, path)
    model = SideNetwork(_recorded_trial(settings), _recorded_shape(settings), 3)
    assert load_authors_checkpoint(path, model) == ["lpm.vit.layernorm.weight"]
    assert torch.equal(model.fusion.prompts[:, None], theirs["fusion_module.prompts"])
    assert torch.equal(model.head.weight, theirs["side_encoder.classifier.weight"])


def test_a_checkpoint_of_another_shape_is_refused(tmp_path, small_trial, small_shape):
    tensors = load_file(FIXTURES / "fpt_plus_small.safetensors")
    save_file(
        {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}, tmp_path / "x.safetensors"
    )
    with pytest.raises(ConfigError, match="does not fit this side network"):
        load_authors_checkpoint(tmp_path / "x.safetensors", SideNetwork(small_trial, small_shape, 3))
