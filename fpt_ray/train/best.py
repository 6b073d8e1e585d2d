"""What the best epochs of a trial say of a split, by their weights in its checkpoint."""

import numpy as np
from jaxtyping import Float

from fpt_ray.config.trial import TrialConfig
from fpt_ray.features.joining import Features
from fpt_ray.features.places import ShardFiles
from fpt_ray.features.rows import Rows
from fpt_ray.features.serving import trial_slice
from fpt_ray.metrics.scores import Scores, scores
from fpt_ray.models.device import compute_device
from fpt_ray.models.loss import network_for
from fpt_ray.models.methods import load_learnable_state
from fpt_ray.train.checkpoint import Checkpoint
from fpt_ray.train.evaluation import predict
from fpt_ray.train.seeds import assignment_of


def scores_of_best(trial: TrialConfig, store: Features, split: str, checkpoint: Checkpoint) -> list[Scores]:
    """Scores of the best epoch's weights of every seed on a split, read from the store's files."""
    found, labels = predictions_of_best(trial, store, split, checkpoint)
    return [scores(one, labels, store.classes, store.task) for one in found]


def predictions_of_best(
    trial: TrialConfig, store: Features, split: str, checkpoint: Checkpoint
) -> tuple[list[Float[np.ndarray, "N C"]], np.ndarray]:
    """What is said by the best epoch's weights of every seed on a split, and its labels; read from files."""
    device = compute_device()
    model = network_for(trial, store.target).to(device)
    cut = trial_slice(trial, store.spec)
    rows = Rows(ShardFiles(store, cut), store, split, cut)
    found = []
    for best in checkpoint.best:
        load_learnable_state(model, best.model)
        found.append(predict(model, rows, trial, assignment_of(store, device))[0])
    return found, rows.labels
