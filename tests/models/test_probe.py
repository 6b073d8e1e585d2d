"""fpt_ray.models.probe against sums written out, and PyTorch's own batch norm."""

import math

import pytest
import torch
from torch import nn

from fpt_ray.config.space import need_of
from fpt_ray.config.trial import trial_from
from fpt_ray.cost.prediction import learnable_parameters, trial_costs
from fpt_ray.errors import ConfigError
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.spec import store_spec
from fpt_ray.models.batch_norm import BatchNorm
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.methods import check_trial, learnable_state, load_learnable_state, make_model
from tests.conftest import SMALL

VALUES = {
    "method": "probe",
    "backbone.name": SMALL,
    "backbone.weights": "random",
    "side.depth": 2,
    "side.blocks": "3,8",
    "probe.num_queries": 5,
}


def test_logits_are_those_of_the_sums_written_out():
    trial = trial_from(VALUES)
    model = make_model(trial, 3).double().eval()
    keys, values = torch.randn(2, 2, 4, 3, 7, 64, dtype=torch.float64).unbind(0)
    model.norm.mean.normal_()
    model.norm.variance.uniform_(0.5, 2)
    for image in range(4):
        found = []
        for layer in range(2):
            for query in range(5):
                for head in range(3):
                    asked = model.queries.detach()[layer, head, :, query]
                    scores = [float(asked @ keys[layer, image, head, token]) / 2 for token in range(7)]
                    shares = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
                    found.append(sum(s * values[layer, image, head, t] for t, s in enumerate(shares)))
        whole = (torch.cat(found) - model.norm.mean) / (model.norm.variance + 1e-5).sqrt()
        logits = model.head.weight @ whole + model.head.bias
        torch.testing.assert_close(model(None, keys, values)[image], logits)


def test_its_norm_is_pytorchs_batch_norm():
    ours, theirs = BatchNorm(6), nn.BatchNorm1d(6, affine=False)
    for _ in range(3):
        found = 3 * torch.randn(8, 6) + 2
        one, other = found.clone().requires_grad_(), found.clone().requires_grad_()
        torch.testing.assert_close(ours(one), theirs(other))
        weights = torch.randn(8, 6)
        gradients = (torch.autograd.grad((norm(x) * weights).sum(), x)[0] for norm, x in ((ours, one), (theirs, other)))
        torch.testing.assert_close(*gradients)
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.variance, theirs.running_var)
    torch.testing.assert_close(ours.eval()(found), theirs.eval()(found))


def test_what_it_has_seen_stays_with_what_it_learnt():
    trial = trial_from(VALUES)
    one, other = make_model(trial, 3), make_model(trial, 3)
    keys, values = torch.randn(2, 2, 4, 3, 7, 64).unbind(0)
    one(None, keys, values)
    load_learnable_state(other, learnable_state(one))
    assert torch.equal(one.eval()(None, keys, values), other.eval()(None, keys, values))
    assert other.norm.mean.abs().sum() > 0


def test_it_is_as_small_as_it_was_measured():
    """By hand: 4 queries of 64 numbers for each of 6 heads, 2 rows of as many weights, 2 biases."""
    values = {**VALUES, "backbone.name": "vit_small_patch14_dinov2.lvd142m", "features.resolution": 392}
    trial = trial_from({**values, "side.depth": 1, "side.blocks": "8", "probe.num_queries": 4})
    assert learnable_parameters(trial, 2) == 4 * 6 * 64 * 3 + 2 == 4610
    costs = trial_costs(trial, 2, Hardware(device="cpu", name="cpu", has_bfloat16=False))
    assert costs["param_ratio"] < 0.0003
    assert costs["memory_ratio"] < 0.2


def test_what_only_a_side_network_needs_is_not_asked_of_it():
    """A side of 128 px is no multiple of a patch of 14, and a width of 384 is not divided by 5."""
    values = {**VALUES, "backbone.name": "vit_small_patch14_dinov2.lvd142m", "features.resolution": 392}
    check_trial(trial_from({**values, "side.resolution": 128, "side.reduction": 5}))
    with pytest.raises(ConfigError, match=r"side\.blocks"):
        check_trial(trial_from({**values, "side.blocks": "3,12"}))
    with pytest.raises(ConfigError, match=r"side\.resolution"):
        check_trial(trial_from({**values, "method": "fpt+", "side.resolution": 128}))


def test_it_reads_features_and_no_image():
    trial = trial_from(VALUES)
    cut = trial_slice(trial, store_spec(need_of(trial)))
    assert (cut.blocks, cut.low_resolutions) == ((3, 8), ())
    assert trial_slice(trial_from({**VALUES, "side.num_prompts": 0}), store_spec(need_of(trial))) == cut
    with pytest.raises(ConfigError, match="method is probe, which reads stored features"):
        trial_from({**VALUES, "features.preloaded": False})
