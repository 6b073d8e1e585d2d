"""What runs on a GPU, compared with the same in float32 on the CPU; memory with the prediction. Core rooms alone:
torch, timm and peft are all that is needed, no Ray."""

import dataclasses
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch

from fpt_ray.config.space import need_of
from fpt_ray.config.trial import SUMMARY_METHODS, Method, trial_from
from fpt_ray.cost.costs import measured_cost
from fpt_ray.features.rows import Batch
from fpt_ray.features.spec import store_spec
from fpt_ray.images.pixels import normalise
from fpt_ray.models.importance import extract
from fpt_ray.models.lpm_attention import Heard, mean_attention
from fpt_ray.models.methods import make_model
from fpt_ray.models.step import arithmetic_type, make_learner, take_step
from fpt_ray.models.weights import load_backbone
from fpt_ray.preload import batches
from fpt_ray.train.evaluation import Assignment, network_inputs, predict
from fpt_ray.train.loop import fit
from tests.conftest import ABC

pytestmark = pytest.mark.gpu
METHODS = typing.get_args(Method)
SMALL = {
    "backbone.name": "vit_tiny_patch16_224",
    "backbone.weights": "random",
    "features.resolution": 96,
    "side.depth": 2,
    "side.num_prompts": 3,
    "side.reduction": 4,
    "side.resolution": 32,
    "training.batch_size": 6,
    "training.epochs": 2,
    "training.learning_rate": 1e-3,
}


class Rows:
    """Images, and features whose values tell three classes apart."""

    device_bytes = 0

    def __init__(self, trial, num_rows=12, seed=0):
        marks, generator = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
        self.row_ids, self.labels = np.arange(num_rows), np.arange(num_rows) % 3
        side = trial.method in ("fpt+", "fpt", "probe")
        size = trial.side.resolution if side else trial.features.resolution
        self.reads_no_image = trial.method in ("probe", *SUMMARY_METHODS)
        at = torch.as_tensor(self.labels)
        images = torch.randint(0, 90, (num_rows, size, size, 3), generator=generator)
        self.images = (images + 80 * at[:, None, None, None]).to(torch.uint8)
        shape = (trial.side.depth, 3, 7, 64)
        mark = torch.randn(3, *shape, generator=marks)[at] + torch.randn(num_rows, *shape, generator=generator)
        self.features = mark.transpose(0, 1).contiguous().half() if side else None
        told = torch.randn(3, 12, 2, 192, generator=marks)[at] + torch.randn(num_rows, 12, 2, 192, generator=generator)
        self.summaries = told.half() if trial.method in SUMMARY_METHODS else None

    def __len__(self):
        return len(self.row_ids)

    def take(self, row_ids, memory=None):
        at = torch.as_tensor(np.asarray(row_ids))
        features = None if self.features is None else self.features[:, at]
        values = None if features is None else -features
        images = None if self.reads_no_image else self.images[at]
        summaries = None if self.summaries is None else self.summaries[at]
        labels = torch.as_tensor(self.labels)[at]
        return Batch(low_res=images, keys=features, values=values, labels=labels, summaries=summaries)


def assignment(device, num_train=12):
    return Assignment(target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=num_train, device=device)


def distance(found, expected):
    """How far a tensor is from another, as a share of it."""
    expected = expected.double().cpu()
    return float((found.double().cpu() - expected).norm() / expected.norm())


# --- extraction ---------------------------------------------------------------------------------------------------


def features_of(device, dtype):
    """Keys and values of all tokens in the order of the image, and the importance rank of each token."""
    vit = load_backbone(trial_from(SMALL).backbone, 96).eval().to(device, dtype)
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    found = extract(vit, images.to(device), blocks=(10, 11), num_kept=37)
    place = found.tokens.argsort(dim=-1).cpu()
    at = place.unsqueeze(-1).expand(-1, -1, -1, -1, 64)
    return found.keys.cpu().gather(3, at), found.values.cpu().gather(3, at), place


@pytest.mark.parametrize(("dtype", "most", "moved"), [("float32", 1e-4, 0.5), ("bfloat16", 0.03, 6)])
def test_extracted_features_are_the_cpus(device, exact, dtype, most, moved):
    keys, values, ranks = features_of(device, getattr(torch, dtype))
    expected = features_of(torch.device("cpu"), torch.float32)
    assert distance(keys, expected[0]) < most
    assert distance(values, expected[1]) < most
    assert float((ranks - expected[2]).abs().double().mean()) < moved  # of 37 places


def test_importance_summed_in_a_devices_own_chunks_is_the_cpus(device):
    queries, keys = torch.randn(2, 2, 3, 700, 16, generator=torch.Generator().manual_seed(0)).unbind(0)
    found = mean_attention(Heard(queries=queries.to(device), keys=keys.to(device), values=keys, scale=0.25))
    expected = mean_attention(Heard(queries=queries, keys=keys, values=keys, scale=0.25))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_of_shards_that_are_computed_beside_each_other_are_those_of_batches_by_hand(
    device, dtype, monkeypatch
):
    """Copies to the host run beside the next batch, from a queue of their own; none is read before it has ended."""
    spec = dataclasses.replace(store_spec(need_of(trial_from(SMALL))), dtype=dtype)
    monkeypatch.setitem(batches._BATCH_TOKENS, device.type, 4 * spec.num_tokens)
    vit = load_backbone(trial_from(SMALL).backbone, 96).eval().to(device)
    shards = np.random.default_rng(0).integers(0, 255, (5, 10, 96, 96, 3), np.uint8)
    started = [batches.start(vit, images, spec) for images in shards]
    for images, one in zip(shards, started, strict=True):
        assert 0 < one.wait() < 60
        for first in range(0, 10, 4):
            batch = torch.from_numpy(images[first : first + 4]).to(device)
            found = extract(
                vit,
                normalise(batch, spec.mean, spec.std),
                blocks=spec.blocks,
                num_kept=spec.num_kept,
                summarised=True,
            )
            rows = slice(first, first + 4)
            stored = getattr(torch, dtype)
            assert torch.equal(one.features.keys[:, rows], found.keys.to(stored).cpu())
            assert torch.equal(one.features.values[:, rows], found.values.to(stored).cpu())
            assert torch.equal(one.features.tokens[:, rows], found.tokens.cpu())
            assert torch.equal(one.features.summaries[:, :, rows], found.summaries.to(stored).cpu())


# --- fusion and training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fpt+", "fpt"])
@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-4), ("bfloat16", 0.05)])
def test_what_the_side_network_says_of_a_split_is_what_it_says_on_the_cpu(device, exact, method, precision, most):
    trial = trial_from({**SMALL, "method": method, "training.precision": precision})
    plain = dataclasses.replace(trial, training=dataclasses.replace(trial.training, precision="float32"))
    model, rows = make_model(trial, 3), Rows(trial)
    torch.nn.init.normal_(model.fusion.prompts, generator=torch.Generator().manual_seed(2))
    expected, _ = predict(model, rows, plain, assignment(torch.device("cpu")))
    found, labels = predict(model.to(device), rows, trial, assignment(device))
    assert labels.tolist() == rows.labels.tolist()
    assert distance(torch.as_tensor(found), torch.as_tensor(expected)) < most


@pytest.mark.parametrize(("precision", "most"), [("float32", 1e-3), ("bfloat16", 0.05)])
def test_an_epochs_loss_in_autocast_is_the_cpus_and_what_learns_stays_float32(device, exact, precision, most):
    trial = trial_from({**SMALL, "training.precision": precision})
    plain = dataclasses.replace(trial, training=dataclasses.replace(trial.training, precision="float32"))
    rows, val = Rows(trial), Rows(trial, seed=1)
    model = make_model(trial, 3).to(device)
    found = list(fit(model, rows, val, trial, assignment(device)))
    expected = list(fit(make_model(plain, 3), rows, val, plain, assignment(torch.device("cpu"))))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=most)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    moments = [one["exp_avg"] for one in found[-1].snapshot.optimizer["state"].values()]
    assert {(one.dtype, one.device.type) for one in moments} == {(torch.float32, device.type)}
    assert {value.device.type for value in found[-1].snapshot.best.model.values()} == {"cpu"}
    assert (found[-1].measured_peak_bytes is not None) == (device.type == "cuda")


@pytest.mark.parametrize("method", [method for method in METHODS if method != "knn"])
def test_steps_of_every_method_lower_the_loss(device, method):
    online = {"features.preloaded": False} if method == "mlp_transfer" else {}
    trial = trial_from({**SMALL, "method": method, **online})
    rows, ids = Rows(trial), np.arange(6)
    model = make_model(trial, 3).to(device).train()
    learner = make_learner(model, [trial.training], 20, arithmetic_type(trial.training, device))
    batch = rows.take(ids)
    losses = [
        float(
            take_step(
                learner,
                number,
                lambda: network_inputs(batch, ids, 1, (trial,), assignment(device)),
                lambda logits: batch.labels.to(logits.device),
            )
        )
        for number in range(1, 7)
    ]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [method for method in METHODS if method != "mlp_transfer"])
def test_predicted_memory_is_within_a_tenth_of_what_is_allocated(device, method):
    """And so is its ratio to full fine-tuning, m of Eq. 10."""
    if device.type != "cuda":
        pytest.skip("only CUDA counts what is allocated")
    cost, full = (measured_cost(trial_from({"method": one}), 5) for one in (method, "full_fine_tuning"))
    measured, reference = cost.measured.allocated_bytes, full.measured.allocated_bytes
    assert cost.memory.allocated_bytes == pytest.approx(measured, rel=0.1)
    assert cost.memory.allocated_bytes / full.memory.allocated_bytes == pytest.approx(measured / reference, rel=0.1)


def test_none_of_this_imports_what_a_search_needs():
    names = ("ray", "mlflow", "optuna", "boto3", "tyro", "sqlalchemy")
    code = f"import sys, tests.gpu.test_gpu; print([name for name in {names} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
