"""Evidence against attention that is multiplied out here, by the model's own weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fpt_ray.config.trial import Method, trial_from
from fpt_ray.errors import ConfigError
from fpt_ray.images.pixels import normalise
from fpt_ray.models.methods import load_learnable_state
from fpt_ray.predict.classifier import load
from fpt_ray.predict.evidence.attention import check_evidence, evidence_of, heat, times_selected
from fpt_ray.preload.batches import extract_batches
from tests.predict.bundles import squared
from tests.predict.evidence.made import METHODS, made_evidence


def queries_of(model, method, layer):
    """What asks in a layer: [heads, queries, head width], by the model's own weights."""
    if method == "probe":
        return model.queries[layer].transpose(1, 2) * 0.5 * 64**0.5  # scaled by one half, and not as attention is
    fusion = model.fusion
    prompts = fusion.prompts[layer]
    if method == "fpt":
        asked = prompts @ fusion.in_proj[0].weight.T + fusion.in_proj[0].bias
    else:
        norm = fusion.norms[0]
        centred = prompts - prompts.mean(dim=1, keepdim=True)
        asked = centred / (centred.pow(2).mean(dim=1, keepdim=True) + 1e-12).sqrt() * norm.weight + norm.bias
    return torch.stack([asked[:, head * 64 : head * 64 + 64] for head in range(3)])


def paid_to_prompts(model, low, keys, values):
    """Figure 5 by hand: each layer as timm's own block would compute it, of all tokens and prompts."""
    patches = model.patch_embed(low).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token, patches], dim=1) + model.pos_embed
    number, found = tokens.shape[1], []
    for layer, block in enumerate(model.blocks):
        whole = torch.cat([tokens, model.fusion(layer, keys[layer], values[layer])], dim=1)
        parts = block.attn.qkv(block.norm1(whole))[0].view(whole.shape[1], 3, 3, -1)
        paid, out = [], []
        for head in range(3):
            query, key, value = parts[:, :, head].unbind(1)
            maps = torch.softmax(query @ key.T / query.shape[1] ** 0.5, dim=1)
            asking = number if layer < len(model.blocks) - 1 else 1
            paid.append(maps[:asking, number:].sum(dim=1).mean())
            out.append(maps @ value)
        whole = whole + block.attn.proj(torch.cat(out, dim=1))
        tokens = (whole + block.mlp(block.norm2(whole)))[:, :number]
        found.append(torch.stack(paid))
    return torch.stack(found)


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_attention_is_that_of_the_forward_pass_of_every_seed(method, bundles, table):
    classifier = load(bundles[method])
    row = table.row(0)
    evidence = evidence_of(classifier, Path(table.root, row.path))
    square = squared(table, row, 64)
    features = extract_batches(classifier.lpm, square[None], classifier.bundle.spec)
    keys, values = features.keys.float(), features.values.float()
    np.testing.assert_array_equal(evidence.tokens, features.tokens[:, 0])
    np.testing.assert_allclose(evidence.class_token, features.summaries[-1, 0, 0].float(), atol=1e-6)
    small = Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC)
    low = normalise(torch.from_numpy(np.array(small))[None], classifier.bundle.spec.mean, classifier.bundle.spec.std)
    for seed, state in enumerate(classifier.bundle.states):
        load_learnable_state(classifier.model, state)
        for layer in range(len(evidence.blocks)):
            asked = queries_of(classifier.model, method, layer)
            expected = torch.softmax(asked @ keys[layer, 0].transpose(1, 2) / 64**0.5, dim=2)
            np.testing.assert_allclose(evidence.attention[seed, layer], expected, atol=1e-5)
        if method != "probe":
            by_hand = paid_to_prompts(classifier.model, low, keys, values)
            np.testing.assert_allclose(evidence.to_prompts[seed], by_hand, atol=1e-5)
    np.testing.assert_allclose(evidence.attention.sum(axis=-1), 1, atol=1e-5)
    assert np.abs(evidence.attention[0] - evidence.attention[1]).max() > 1e-5, "each seed has its own"
    np.testing.assert_allclose(evidence.said, classifier.probabilities(square[None])[:, 0], atol=1e-5)
    np.testing.assert_allclose(evidence.probabilities, classifier.answers(square[None]).probabilities[0], atol=1e-5)
    if method == "probe":
        assert (evidence.to_prompts, evidence.uniform_to_prompts) == (None, None)
    else:
        assert evidence.uniform_to_prompts == pytest.approx(2 / 7), "2 prompts beside 4 patches and a class token"


def test_heat_lies_on_the_patches_that_were_paid():
    found = heat(made_evidence()).ravel()
    expected = {0: 0.15, 5: (0.2 + 0.6) / 2, 10: 0.05, 15: 0.15}
    np.testing.assert_allclose(found, [expected.get(patch, 0) for patch in range(16)], atol=1e-6)
    np.testing.assert_allclose(heat(made_evidence(), 0, 1).ravel()[[5, 10, 15]], [0.6, 0.1, 0.3], atol=1e-6)
    np.testing.assert_allclose(heat(made_evidence(), -1, 0).sum(), 0.5, atol=1e-6)
    assert times_selected(made_evidence(), -1).ravel().tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert times_selected(made_evidence(), -1, 0).ravel()[[0, 5, 15]].tolist() == [1, 1, 0]


@pytest.mark.parametrize("method", [name for name in Method.__args__ if name not in METHODS])
def test_methods_that_attend_to_no_selected_token_are_refused_by_name(method):
    preloaded = method in ("layer_fusion", "stored_linear_probe", "knn")
    trial = trial_from({"method": method, "features.preloaded": preloaded})
    why = "reads class tokens and mean patch tokens" if preloaded else "runs the LPM in every step"
    with pytest.raises(ConfigError, match=rf"evidence: the bundle's method is {method}, which {why}.*; fpt\+, fpt and"):
        check_evidence(trial)


def test_a_side_network_that_sees_no_stored_token_is_refused():
    with pytest.raises(ConfigError, match=r"fpt\+, which with side.num_prompts 0 does not see the LPM"):
        check_evidence(trial_from({"side.num_prompts": 0}))
    with pytest.raises(ConfigError, match=r"fpt\+, which with features.preloaded false runs the LPM"):
        check_evidence(trial_from({"features.preloaded": False}))
    for method in METHODS:
        check_evidence(trial_from({"method": method}))
