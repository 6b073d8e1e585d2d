"""fpt_ray.train.buffers against PyTorch's own conversion, and training on halves against the same numbers as floats."""

import dataclasses

import pytest
import torch

from fpt_ray.models.methods import make_model
from fpt_ray.train import buffers
from fpt_ray.train.buffers import Buffers
from fpt_ray.train.evaluation import Assignment
from fpt_ray.train.loop import fit
from tests.conftest import ABC, FakeRows

CPU = torch.device("cpu")


def test_what_is_converted_is_right_and_in_memory_that_is_kept():
    moved, addresses = Buffers().moved, set()
    for size in (5, 3, 5):  # the last batch of a validation split is a smaller one
        keys, values = torch.randn(2, 2, size, 7).half()
        found = [moved(name, half, CPU, torch.float32) for name, half in (("k", keys), ("v", values))]
        assert torch.equal(found[0], keys.float())
        assert torch.equal(found[1], values.float())
        addresses |= {tensor.data_ptr() for tensor in found}
    assert len(addresses) == 2
    wide = torch.randn(4, 9, 7).half()
    assert torch.equal(moved("k", wide, CPU, torch.float32), wide.float())
    assert torch.equal(moved("k", wide, CPU, torch.float64), wide.double())


@pytest.mark.parametrize(("dtype", "megabytes"), [(torch.float32, 0), (torch.float16, 17)])
def test_what_is_right_already_and_what_is_much_is_taken_as_it_is(dtype, megabytes):
    keys = torch.zeros(2 + (megabytes << 18), dtype=dtype)
    assert Buffers().moved("keys", keys, CPU, torch.float32) is keys


def test_a_batch_is_read_beside_the_one_before_it_and_where_the_one_before_that_was():
    buffers, addresses = Buffers(), []
    for turn in range(4):
        buffers.worked_on(turn - 1)
        memory = buffers.memory(turn)
        addresses.append([memory(name, (3, 4), torch.float16).data_ptr() for name in ("keys", "values")])
    assert addresses[2:] == addresses[:2]
    assert len({*addresses[0], *addresses[1]}) == 4


class Stored(FakeRows):
    """Rows whose features are numbers of float16, in a type."""

    def __init__(self, dtype, *args, **options):
        super().__init__(*args, **options)
        self.dtype = dtype

    def take(self, row_ids, memory=None):
        batch = super().take(row_ids)
        kinds = {name: getattr(batch, name).half().to(self.dtype) for name in ("keys", "values")}
        return dataclasses.replace(batch, **kinds)


@pytest.mark.parametrize("converted", ["before", "as read"])
def test_training_on_halves_gives_the_numbers_of_the_same_floats(converted, small_trial, small_shape, monkeypatch):
    monkeypatch.setattr(buffers, "_FEW_BYTES", 0 if converted == "as read" else 1 << 20)
    found = []
    for dtype in (torch.float16, torch.float32):
        rows = (Stored(dtype, 18, small_trial, small_shape), Stored(dtype, 9, small_trial, small_shape, split="val"))
        assignment = Assignment(device=CPU, target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=18)
        epochs = list(fit(make_model(small_trial, 3), *rows, small_trial, assignment))
        found.append([number for epoch in epochs for number in (epoch.train_loss, epoch.val_score)])
    assert found[0] == (found[1] if converted == "before" else pytest.approx(found[1], rel=1e-5))
