"""What is asked of an image: the tasks that a network may learn."""

from typing import Literal

Task = Literal["binary", "multiclass", "ordinal", "multilabel", "regression"]
"""One of two classes; one of several; one of several grades in their order; any of several labels; a number."""
