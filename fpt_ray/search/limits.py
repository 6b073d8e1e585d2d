"""The constraints of a space as Optuna is told them: what is known before training, and what only training shows."""

from collections.abc import Mapping

import optuna

from fpt_ray.config.objectives import KNOWN_BEFORE
from fpt_ray.config.space import SearchSpace
from fpt_ray.search.messages import RESTARTS, Message, TrialFailure, is_finite, metric


def has_known_limits(space: SearchSpace) -> bool:
    """Whether a constraint is of what is known before training."""
    return any(name in KNOWN_BEFORE for name in space.constraints)


def tell_known_limits(space: SearchSpace, trial: optuna.Trial, costs: Mapping[str, float]) -> list[str]:
    """Tells by how much a trial's costs break each of these limits; returns those that are broken, in words."""
    excess = {name: limit.excess(costs[name]) for name, limit in space.constraints.items() if name in KNOWN_BEFORE}
    for name, value in excess.items():
        trial.set_constraint(name, value)
    return [f"{name} is {costs[name]:.6g}" for name, value in excess.items() if value > 0]


def tell_shown_limits(space: SearchSpace, trial: optuna.Trial, message: Message | None, error: bool) -> None:
    """Limits of what only training shows; memory that ran out is a broken limit, whatever the space says."""
    for name, limit in space.constraints.items():
        value = metric(message, name)
        if name not in KNOWN_BEFORE and is_finite(value):
            trial.set_constraint(name, limit.excess(value))
    if isinstance(message, TrialFailure) and message.out_of_memory_bytes is not None:
        trial.set_constraint("out_of_memory_bytes", max(1.0, float(message.out_of_memory_bytes)))
    if error:
        trial.set_constraint("deaths", float(RESTARTS + 1))
