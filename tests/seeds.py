"""A trial with its seeds, trained by itself, as most tests ask it."""

from fpt_ray.train.seeds import Member, fit_seeds

COSTS = {"param_ratio": 0.02, "memory_ratio": 0.3, "peak_memory_bytes": 5.0}


def member(trial, seeds=1, identity="one", costs=COSTS):
    return Member(trial=trial, costs=costs, identity=identity, seeds=seeds)


def fit_one(trial, seeds, rows, assignment, *, identity="one", started=0.0, resume=None, **options):
    """The progress of one trial."""
    members, saved = (member(trial, seeds, identity),), () if resume is None else (resume,)
    for (progress,) in fit_seeds(members, rows, assignment, started=started, resume=saved, **options):
        yield progress
