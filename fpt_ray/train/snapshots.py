"""Where the training of each network stands: taken after an epoch, and gone on from."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fpt_ray.models.step import Learner, unwrapped
from fpt_ray.models.together import learnable_states, load_learnable_states
from fpt_ray.train.checkpoint import Best, Snapshot, State
from fpt_ray.train.evaluation import Found


def better(best: Sequence[Best], found: Sequence[Found], epoch: int, model: nn.Module) -> list[Best]:
    """The best epochs of a model's networks after another one, by the score that picks; of equal ones, the first."""
    return [
        Best(epoch=epoch, val_score=one.picking, scores=one.scores, model=_copied(state))
        if one.picking > before.val_score
        else before
        for before, one, state in zip(best, found, learnable_states(model), strict=True)
    ]


def snapshots(learner: Learner, epoch: int, best: Sequence[Best]) -> list[Snapshot]:
    """Where each network of a learner stands: what each would say alone."""
    states = learnable_states(unwrapped(learner.model))
    optimizer, schedule = learner.optimizer.state_dict(), learner.schedule.state_dict()
    return [
        Snapshot(
            epoch=epoch,
            model=state,
            optimizer=optimizer if len(states) == 1 else {**optimizer, "state": _part(optimizer["state"], at)},
            schedule=schedule,
            best=best[at],
        )
        for at, state in enumerate(states)
    ]


def go_on_from(learner: Learner, found: Sequence[Snapshot]) -> None:
    """Puts a learner where its networks stood."""
    load_learnable_states(unwrapped(learner.model), [one.model for one in found])
    optimizer = found[0].optimizer
    if len(found) > 1:
        optimizer = {**optimizer, "state": _joined([one.optimizer["state"] for one in found])}
    learner.optimizer.load_state_dict(optimizer)
    learner.schedule.load_state_dict(found[0].schedule)


def _part(moments: dict[int, State], at: int) -> dict[int, State]:
    """AdamW's moments of one of several networks; how many steps there were is the same for all."""
    return {
        number: {name: value if name == "step" else value[at] for name, value in of_one.items()}
        for number, of_one in moments.items()
    }


def _joined(moments: Sequence[dict[int, State]]) -> dict[int, State]:
    return {
        number: {
            name: value if name == "step" else torch.stack([one[number][name] for one in moments])
            for name, value in of_first.items()
        }
        for number, of_first in moments[0].items()
    }


def _copied(state: State) -> State:
    """A copy that stays as it is, off the device: on it, it would count as memory of training."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }
