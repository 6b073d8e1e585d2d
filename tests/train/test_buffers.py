"""fpt_ray.train.buffers against PyTorch's own conversion, and training on halves against the same numbers as floats."""

import dataclasses

import torch

from fpt_ray.models.methods import make_model
from fpt_ray.train.buffers import Buffers
from fpt_ray.train.evaluation import Assignment
from fpt_ray.train.loop import fit
from tests.conftest import ABC, FakeRows

CPU = torch.device("cpu")


def test_what_is_converted_is_right_and_in_memory_that_is_kept():
    buffers, addresses = Buffers(), set()
    for size in (5, 3, 5):  # the last batch of a validation split is a smaller one
        keys, values = torch.randn(2, 2, size, 7).half()
        found = [buffers.converted(name, half, CPU, torch.float32) for name, half in (("k", keys), ("v", values))]
        assert torch.equal(found[0], keys.float())
        assert torch.equal(found[1], values.float())
        addresses |= {tensor.data_ptr() for tensor in found}
    assert len(addresses) == 2
    wide = torch.randn(4, 9, 7).half()
    assert torch.equal(buffers.converted("k", wide, CPU, torch.float32), wide.float())
    assert torch.equal(buffers.converted("k", wide, CPU, torch.float64), wide.double())


def test_a_batch_is_read_beside_the_one_before_it_and_where_the_one_before_that_was():
    buffers, addresses = Buffers(), []
    for turn in range(4):
        buffers.worked_on(turn - 1)
        memory = buffers.memory(turn)
        addresses.append([memory(name, (3, 4), torch.float16).data_ptr() for name in ("keys", "values")])
    assert addresses[2:] == addresses[:2]
    assert len({*addresses[0], *addresses[1]}) == 4


def test_a_tensor_in_the_right_type_is_taken_as_it_is():
    keys = torch.randn(2, 3)
    assert Buffers().converted("keys", keys, CPU, torch.float32) is keys


class Stored(FakeRows):
    """Rows whose features are numbers of float16, in a type."""

    def __init__(self, dtype, *args, **options):
        super().__init__(*args, **options)
        self.dtype = dtype

    def take(self, row_ids, memory=None):
        batch = super().take(row_ids)
        kinds = {name: getattr(batch, name).half().to(self.dtype) for name in ("keys", "values")}
        return dataclasses.replace(batch, **kinds)


def test_training_on_halves_gives_the_numbers_of_the_same_floats(small_trial, small_shape):
    found = []
    for dtype in (torch.float16, torch.float32):
        rows = (Stored(dtype, 18, small_trial, small_shape), Stored(dtype, 9, small_trial, small_shape, split="val"))
        assignment = Assignment(device=CPU, target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=18)
        epochs = list(fit(make_model(small_trial, 3), *rows, small_trial, assignment))
        found.append([(epoch.train_loss, epoch.val_score) for epoch in epochs])
    assert repr(found[0]) == repr(found[1])
