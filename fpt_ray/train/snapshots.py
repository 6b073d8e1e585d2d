"""Where the training of each network stands: taken after an epoch, and gone on from."""

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from fpt_ray.models.step import Learner, unwrapped
from fpt_ray.models.together import learnable_states, load_learnable_states
from fpt_ray.train.checkpoint import Best, Snapshot, State
from fpt_ray.train.evaluation import Found

_OF_EACH = ("base_lrs", "_last_lr")
"""What a schedule has of each group of parameters."""


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
            optimizer=_optimizer_of(optimizer, at),
            schedule={**schedule, **{name: [schedule[name][at]] for name in _OF_EACH}},
            best=best[at],
        )
        for at, state in enumerate(states)
    ]


def go_on_from(learner: Learner, found: Sequence[Snapshot]) -> None:
    """Puts a learner where its networks stood."""
    load_learnable_states(unwrapped(learner.model), [one.model for one in found])
    learner.optimizer.load_state_dict(_joined([one.optimizer for one in found]))
    schedules = [one.schedule for one in found]
    each = {name: [value for one in schedules for value in one[name]] for name in _OF_EACH}
    learner.schedule.load_state_dict({**schedules[0], **each})


def _optimizer_of(optimizer: State, at: int) -> State:
    """What an optimizer remembers of one network, whose group of parameters it counts from 0."""
    group = optimizer["param_groups"][at]
    moments = {
        own: optimizer["state"][number] for own, number in enumerate(group["params"]) if number in optimizer["state"]
    }
    return {"state": moments, "param_groups": [{**group, "params": list(range(len(group["params"])))}]}


def _joined(optimizers: Sequence[State]) -> State:
    """What one optimizer remembers of all networks: it counts the parameters of one group after those of another."""
    state: dict[int, State] = {}
    groups: list[State] = []
    for one in optimizers:
        (group,), first = one["param_groups"], sum(len(known["params"]) for known in groups)
        state |= {first + number: moments for number, moments in one["state"].items()}
        groups.append({**group, "params": [first + number for number in group["params"]]})
    return {"state": state, "param_groups": groups}


def _copied(state: State) -> State:
    """A copy that stays as it is, off the device: on it, it would count as memory of training."""
    return {
        name: value.detach().cpu().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }
