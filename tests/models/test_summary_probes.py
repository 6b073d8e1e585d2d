"""fpt_ray.models.summary_probes against sums written out, and against the LPM with its own norm and head."""

import math

import numpy as np
import pytest
import torch

from fpt_ray.config.space import need_of
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.trial import override, trial_from
from fpt_ray.cost.prediction import learnable_parameters, trial_costs
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import need_slice, trial_slice
from fpt_ray.features.spec import column_widths, columns_of, store_spec
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.importance import extract
from fpt_ray.models.methods import check_trial, learnable_state, load_learnable_state, make_model
from fpt_ray.models.step import learns
from tests.conftest import SMALL

VALUES = {"backbone.name": SMALL, "backbone.weights": "random", "features.resolution": 64, "probe.num_queries": 5}
FUSION = {**VALUES, "method": "layer_fusion"}


def normed(token):
    return (token - token.mean()) / (token.var(correction=0) + 1e-6).sqrt()


def test_fusion_is_the_sums_written_out():
    model = make_model(trial_from(FUSION), 3).double().eval()
    torch.nn.init.normal_(model.preferences)
    model.norm.mean.normal_()
    model.norm.variance.uniform_(0.5, 2)
    summaries = 3 * torch.randn(2, 12, 2, 192, dtype=torch.float64) + 1
    for image in range(2):
        tokens = [normed(summaries[image, block, kind]) for block in range(12) for kind in range(2)]
        found = []
        for query in range(5):
            for head in range(3):
                parts = [token[64 * head : 64 * head + 64] for token in tokens]
                asked = model.queries.detach()[head, :, query]
                liked = model.preferences.detach()[head, :, query]
                scores = [float(asked @ part) / 2 + float(like) for part, like in zip(parts, liked, strict=True)]
                shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
                found.append(sum(share * part for share, part in zip(shares, parts, strict=True)))
        whole = (torch.cat(found) - model.norm.mean) / (model.norm.variance + 1e-5).sqrt()
        torch.testing.assert_close(model(summaries)[image], model.head.weight @ whole + model.head.bias)


def test_the_stored_probe_is_the_lpms_own_linear_probe():
    """With the affine map of the LPM's norm within its head, its logits are those of the LPM with a new head."""
    probing = make_model(trial_from({**VALUES, "method": "linear_probing"}), 3).eval()
    torch.nn.init.uniform_(probing.norm.weight, 0.5, 2)
    torch.nn.init.normal_(probing.norm.bias)
    torch.nn.init.normal_(probing.head.bias)
    stored = make_model(trial_from({**VALUES, "method": "stored_linear_probe"}), 3).eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        stored.head.weight.copy_(probing.head.weight * probing.norm.weight)
        stored.head.bias.copy_(probing.head.bias + probing.head.weight @ probing.norm.bias)
        found = extract(probing, images, blocks=(11,), num_kept=1, importance="global", summarised=True)
        summaries = found.summaries.permute(2, 0, 1, 3)
        torch.testing.assert_close(stored(summaries), probing(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("neighbours", [3, 99])
def test_neighbours_vote_as_by_hand(neighbours):
    """The cosine of two tokens after a norm without an affine map is the correlation of the tokens."""
    model = make_model(trial_from({**VALUES, "method": "knn", "knn.neighbours": neighbours}), 3).eval()
    told, asked = torch.randn(2, 9, 12, 2, 192) + 5
    labels = np.array([0, 0, 0, 2, 2, 2, 0, 2, 2])
    model.remember(model.unit_token(told), torch.from_numpy(labels))
    for precision in (torch.float32, torch.bfloat16):  # of the autocast around it, which must not order them anew
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            found = model(asked).softmax(dim=-1).numpy()
        for image in range(9):
            tokens = np.vstack([asked[image, -1, 0], told[:, -1, 0]]).astype(np.float64)
            similarities = np.corrcoef(tokens)[0, 1:]
            votes = np.zeros(3)
            for other in np.argsort(-similarities)[:neighbours]:
                votes[labels[other]] += math.exp(similarities[other] / 0.07)
            np.testing.assert_allclose(found[image], votes / votes.sum(), rtol=1e-4, atol=1e-7)


def test_what_is_remembered_is_the_state_that_a_checkpoint_keeps():
    trial = trial_from({**VALUES, "method": "knn"})
    first, second = make_model(trial, 3), make_model(trial, 3)
    assert not learns(first)
    first.remember(torch.randn(5, 192), torch.arange(5) % 3)
    load_learnable_state(second, learnable_state(first))
    summaries = torch.randn(2, 12, 2, 192)
    assert torch.equal(second(summaries), first(summaries))
    with pytest.raises(RuntimeError, match="the checkpoint is of another model"):
        load_learnable_state(
            make_model(trial_from({**VALUES, "method": "stored_linear_probe"}), 3), learnable_state(first)
        )


def test_they_are_as_small_as_their_parts():
    """By hand, at ViT-S: 4 queries of 64 numbers and of 24 preferences for each of 6 heads; 1,536 and 384 read."""
    values = {"backbone.name": "vit_small_patch14_dinov2.lvd142m", "features.resolution": 392}
    hardware = Hardware(device="cpu", name="cpu", has_bfloat16=False)
    for method, parameters in (
        ("layer_fusion", 6 * 4 * (64 + 24) + 2 * (4 * 384 + 1)),
        ("stored_linear_probe", 2 * (384 + 1)),
        ("knn", 0),
    ):
        trial = trial_from({**values, "method": method})
        check_trial(trial)
        assert learnable_parameters(trial, 2) == parameters
        costs = trial_costs(trial, 2, hardware)
        assert costs["memory_ratio"] < 0.2
        assert (costs["param_ratio"] == 0) == (parameters == 0)


def test_they_read_class_tokens_and_mean_patch_tokens_alone():
    """Two tokens of a block, of 2 bytes a number: 12 x 2 x 192 x 2. Beside others in a space, nothing more."""
    trial = trial_from(FUSION)
    spec = store_spec(need_of(trial))
    (column,) = columns_of(spec, trial_slice(trial, spec))
    assert column_widths(spec)[column] == 12 * 2 * 192 * 2
    assert need_slice(need_of(trial), spec) == trial_slice(trial, spec)
    fixed = f"fixed: {{backbone.name: {SMALL}, features.resolution: 64, side.resolution: 32, side.depth: 3}}"
    for methods in ("layer_fusion, fpt+", "probe, stored_linear_probe", "knn, fpt+"):
        (need,) = parse_space(f"space: {{method: {{choices: [{methods}]}}}}\n{fixed}").stores()
        cut = need_slice(need, store_spec(need))
        assert cut.summaries
        assert cut.blocks == (9, 10, 11)
        assert cut.low_resolutions == ((32,) if "fpt+" in methods else ())


@pytest.mark.parametrize("methods", ["fpt+, stored_linear_probe", "knn, fpt+"])
def test_beside_a_side_network_alone_its_images_are_read_too(methods):
    fixed = f"fixed: {{backbone.name: {SMALL}, features.resolution: 64, side.resolution: 32, side.num_prompts: 0}}"
    space = parse_space(f"space: {{method: {{choices: [{methods}]}}}}\n{fixed}")
    (need,) = space.stores()
    spec = store_spec(need)
    cut = need_slice(need, spec)
    for row in space.rows[0].values():
        trial = override(space.base(), {"method": row})
        assert cut.with_other(trial_slice(trial, spec)) == cut
    assert cut.blocks == ()


def test_they_have_no_meaning_without_a_store():
    for method in ("layer_fusion", "stored_linear_probe", "knn"):
        with pytest.raises(ConfigError, match=f"method is {method}, which reads stored features"):
            trial_from({**VALUES, "method": method, "features.preloaded": False})
