"""A bundle as a model of MLflow's, which runs this file where the model is loaded; nobody imports it.

A table comes in: a row for each image, in a column ``image`` its file's bytes (over REST in base64), or in a column
``path`` where it lies. ``model_config={"backbone": FILE}`` says where the LPM's weights are, if they are elsewhere.
"""

import threading
import warnings
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from typing_extensions import override

from fpt_ray.images.picture import ImageError
from fpt_ray.predict.answers import answer_columns
from fpt_ray.predict.classifier import load

with warnings.catch_warnings(record=True):  # MLflow wants types that are hinted, and knows none for a table

    class BundleModel(PythonModel):
        """A bundle's classifier behind MLflow's interface."""

        @override
        def load_context(self, context: Any) -> None:
            """Loads the bundle that lies in the model."""
            self.turn = threading.Lock()
            """A server calls from several threads; the seeds are loaded into one network in turn."""
            self.classifier = load(context.artifacts["bundle"], (context.model_config or {}).get("backbone"))

        @override
        def predict(self, context, model_input, params=None):  # type: ignore[override]
            """A row for each image, with the columns of ``answers.answer_columns``.

            Raises:
                MlflowException: a row has no image, or one cannot be decoded; a server answers 400.
            """
            images = [_image(row) for row in model_input.to_dict("records")]
            try:
                with self.turn:
                    answers = self.classifier.predict(images)
            except ImageError as error:
                raise MlflowException.invalid_parameter_value(str(error)) from None
            return pd.DataFrame(answer_columns(answers))


def _image(row: dict[str, Any]) -> Any:
    """The first of a row's columns that has something."""
    for name in ("image", "path"):
        if isinstance(row.get(name), str | bytes) and row[name]:
            return row[name]
    raise MlflowException.invalid_parameter_value("a row has neither an image nor a path")


set_model(BundleModel())
