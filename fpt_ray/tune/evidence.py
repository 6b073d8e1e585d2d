"""What the networks of a study's best trial looked at in some of its test images, for the study's page."""

import numpy as np
import pyarrow as pa
import torch

from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.images.columns import as_hex
from fpt_ray.images.table import ImageTable
from fpt_ray.predict.ensemble import ensemble_of
from fpt_ray.predict.evidence.options import EvidenceOptions
from fpt_ray.predict.evidence.worker import evidence_by_worker
from fpt_ray.predict.evidence.writing import PICTURE, TABLE_FILE, planned_evidence
from fpt_ray.predict.finding import best_of, bundle_folders
from fpt_ray.predict.listing import Listing
from fpt_ray.storage.files import exists, list_files, remove
from fpt_ray.train.bundle import read_bundle


def leave_evidence(study_uri: str, table: ImageTable, workdir: str, images: int) -> None:
    """Writes the evidence of so many test images below the best bundle, on a worker, unless it is there; Ray runs.

    A study does not fail for it: where its best trial's method has none, or the images cannot be read, that is said.
    """
    bundles = bundle_folders(study_uri)
    if not images or not bundles:
        return
    best = best_of(bundles.values())
    folder = f"{best}/evidence"
    if exists(f"{folder}/{TABLE_FILE}"):
        return
    remove(folder, [file.path for file in list_files(folder) if PICTURE.fullmatch(file.path)])  # of a killed writer
    tested = table.of("test")
    chosen = tested[np.unique(np.linspace(0, len(tested) - 1, images).round().astype(int))]
    listing = Listing(root=table.root, paths=table.paths.take(chosen).to_pylist(), labels=table.labels[chosen])
    hashes = as_hex(table.hashes()[chosen]).to_pylist()
    answers = pa.table({"error": [""] * len(hashes), "sha256": hashes})
    options = EvidenceOptions(evidence=folder, evidence_images=len(hashes), evidence_orders=0)
    try:
        bundle = read_bundle(best)
        plan = planned_evidence(bundle, listing, options)
        assert plan is not None
        evidence_by_worker(ensemble_of({best: bundle}, torch.device("cpu")), listing, plan, answers, workdir)
    except Exception as error:  # hours of searching are not lost for pictures
        why = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        say(f"study: there are no pictures of what its best trial looked at: {why}")
