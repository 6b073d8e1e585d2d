"""What is said of images as columns of a table."""

from typing import Any

from fpt_ray.config.tasks import Target
from fpt_ray.predict.classifier import Answers


def probability_columns(target: Target) -> list[str]:
    """What the columns of the probabilities are called, or that of the value."""
    return ["value"] if target.task == "regression" else [f"probability_{name}" for name in target.classes]


def answer_columns(answers: Answers) -> dict[str, list[Any]]:
    """{column: a value for each image}: the class, the probability of each class (or the value), and the spread."""
    target, shares = answers.target, answers.probabilities.T.tolist()
    classes = {} if target.task == "regression" else {"class": answers.labels}
    return {**classes, **dict(zip(probability_columns(target), shares, strict=True)), "spread": answers.spread.tolist()}
