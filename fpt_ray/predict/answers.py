"""What is said of images as columns of a table."""

from typing import Any

from fpt_ray.config.tasks import Target
from fpt_ray.predict.classifier import Answers


def probability_columns(target: Target) -> list[str]:
    """What the columns of the probabilities are called, or that of the value."""
    return ["value"] if target.task == "regression" else [f"probability_{name}" for name in target.classes]


def answer_columns(answers: Answers) -> dict[str, list[Any]]:
    """{column: a value for each image}: class, the probability of each class (or the value), spread, familiarity, ...

    A column for each operating point says whether its threshold is reached.
    """
    target, shares = answers.target, answers.probabilities.T.tolist()
    return {
        **({} if target.task == "regression" else {"class": answers.labels}),
        **dict(zip(probability_columns(target), shares, strict=True)),
        "spread": answers.spread.tolist(),
        **({} if answers.familiarity is None else {"familiarity": answers.familiarity.tolist()}),
        **{name: called.tolist() for name, called in answers.decisions.items()},
    }
