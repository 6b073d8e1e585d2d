"""What fpt_ray.train.buffers keeps, and training on halves against the same numbers as floats."""

import dataclasses

import torch

from fpt_ray.models.methods import make_model
from fpt_ray.train.buffers import Buffers
from fpt_ray.train.evaluation import Assignment
from fpt_ray.train.loop import fit
from tests.conftest import ABC, FakeRows

CPU = torch.device("cpu")


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


def test_training_on_halves_gives_the_numbers_of_the_same_floats(small_trial, small_shape):
    found = []
    for dtype in (torch.float16, torch.float32):
        rows = (Stored(dtype, 18, small_trial, small_shape), Stored(dtype, 9, small_trial, small_shape, split="val"))
        assignment = Assignment(device=CPU, target=ABC, mean=(0.5,) * 3, std=(0.5,) * 3, num_train=18)
        epochs = list(fit(make_model(small_trial, 3), *rows, small_trial, assignment))
        found.append([(epoch.train_loss, epoch.val_score) for epoch in epochs])
    assert repr(found[0]) == repr(found[1])
