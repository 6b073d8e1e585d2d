"""A trial's checkpoint: saved, loaded, predicted from."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from fpt_ray.config.trial import TrialConfig, image_resolution
from fpt_ray.features.rows import rows_from_files
from fpt_ray.features.serving import trial_slice
from fpt_ray.features.store import Store
from fpt_ray.metrics.scores import Scores, scores
from fpt_ray.models.methods import load_learnable_state, make_model
from fpt_ray.storage.files import read_bytes
from fpt_ray.train.loop import Checkpoint, predict
from fpt_ray.train.seeds import trial_task

CHECKPOINT_FILE = "checkpoint.pt"


# --- checkpoints ----------------------------------------------------------------------------------------------


def save_checkpoint(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Writes the checkpoint whole or not at all."""
    final = Path(folder) / CHECKPOINT_FILE
    temporary = final.with_suffix(".tmp")
    with temporary.open("wb") as file:  # opened here, so that a full disk is an OSError
        torch.save(checkpoint, file)
    os.replace(temporary, final)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Reads a checkpoint from a local folder or one on S3; tensors and plain values only, never pickled code."""
    content = io.BytesIO(read_bytes(f"{folder}/{CHECKPOINT_FILE}"))
    return torch.load(content, map_location="cpu", weights_only=True)


def scores_of_best(trial: TrialConfig, store: Store, split: str, checkpoint: Checkpoint) -> list[Scores]:
    """Scores of the best epoch's weights of every seed on a split, read from the store's files."""
    found, labels = predictions_of_best(trial, store, split, checkpoint)
    return [scores(probabilities, labels, store.classes) for probabilities in found]


def predictions_of_best(
    trial: TrialConfig, store: Store, split: str, checkpoint: Checkpoint
) -> tuple[list[Float[np.ndarray, "N C"]], Int[np.ndarray, " N"]]:
    """Class probabilities by the best epoch's weights of every seed on a split, and its labels; read from files."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(trial, len(store.classes)).to(device)
    rows = rows_from_files(store, split, trial_slice(trial, store), image_resolution(trial))
    found = []
    for best in (*checkpoint["finished"], checkpoint["current"]["best"]):
        load_learnable_state(model, best["model"])
        found.append(predict(model, rows, trial, trial_task(store, device))[0])
    return found, rows.labels
