"""The training images that look most like an image to the LPM, by the cosine between their class tokens.

Class tokens of training images lie in the feature store, and the images where they were: a bundle has neither.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from fpt_ray.config.preparation import Preparation
from fpt_ray.config.tasks import Target
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import join
from fpt_ray.features.places import read_shard_rows
from fpt_ray.features.rows import NUMPY
from fpt_ray.features.shards import HASH
from fpt_ray.features.spec import SUMMARIES, Slice
from fpt_ray.features.store import open_store
from fpt_ray.images.decoding import read_square
from fpt_ray.images.file import bytes_or_reason
from fpt_ray.images.labels import BETWEEN, CLASS_TASKS
from fpt_ray.images.picture import ImageError
from fpt_ray.images.table import read_images
from fpt_ray.predict.trained_on import table_uri
from fpt_ray.storage.files import absolute, exists
from fpt_ray.train.bundle import Bundle

_CUT = Slice(blocks=(), num_kept=0, low_resolutions=(), summaries=True)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingImages:
    """The images that a bundle was trained on."""

    root: str
    paths: list[str]
    hashes: list[str]
    labels: list[str]
    class_tokens: Float[np.ndarray, "N D"]
    """Of the LPM's last block, of length 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alike:
    """A training image beside another image."""

    uri: str
    sha256: str
    label: str
    cosine: float
    """Between their class tokens, -1..1."""


def training_images(bundle: Bundle, workdir: str, root: str) -> TrainingImages:
    """The training images of a bundle, by the table and the feature store that lie in its working directory.

    Args:
        bundle: what was trained.
        workdir: where.
        root: the folder below which the images lie, by the table's paths.

    Raises:
        ConfigError: one of these is not there, or not whole.
        StorageError: S3 fails.
    """
    where, listed = absolute(workdir), table_uri(bundle, workdir)
    if not exists(listed):
        raise ConfigError(f"{where} has no {listed.removeprefix(f'{where}/')}, the table that it was trained on")
    table = read_images(listed)
    table = table.take(table.of("train"))
    rows = table.rows_at(table.by_hash())
    if not exists(f"{root}/{rows[0].path}"):
        raise ConfigError(f"{root} has no {rows[0].path}, which it was trained on; give --trained_on")
    features = join(open_store(f"{where}/features/{bundle.data['store']}"), table)
    found: dict[str, np.ndarray] = {}
    for shard, wanted in features.rows_by_shard(["train"]).items():
        _, group = read_shard_rows(features.shard_uri(shard), features, _CUT, wanted)
        tokens = _as_float(group[SUMMARIES][:, -1, 0], features.spec.dtype)
        found |= {bytes(sha256).hex(): token for sha256, token in zip(group[HASH], tokens, strict=True)}
    whole = np.stack([found[row.sha256] for row in rows])
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    return TrainingImages(
        root=root,
        paths=[row.path for row in rows],
        hashes=[row.sha256 for row in rows],
        labels=[label_text(bundle.target, row.label) for row in rows],
        class_tokens=whole,
    )


def _as_float(stored: np.ndarray, dtype: str) -> Float[np.ndarray, "N D"]:
    """As they are stored (``rows.NUMPY``); bfloat16 is the upper half of float32."""
    if dtype != "bfloat16":
        return stored.astype(np.float32)
    assert NUMPY[dtype] is np.int16
    return (stored.astype(np.int32) << 16).view(np.float32)


def alike(trained: TrainingImages, class_token: Float[np.ndarray, " D"], sha256: str, number: int) -> list[Alike]:
    """The training images most like an image, best first, that image itself left out."""
    cosines = trained.class_tokens @ (class_token / np.linalg.norm(class_token))
    order = [at for at in np.argsort(-cosines, kind="stable").tolist() if trained.hashes[at] != sha256]
    return [
        Alike(
            uri=f"{trained.root}/{trained.paths[at]}",
            sha256=trained.hashes[at],
            label=trained.labels[at],
            cosine=float(cosines[at]),
        )
        for at in order[:number]
    ]


def label_text(target: Target, label: Any) -> str:
    """A label, as tables have it, by its name; "" where it is not known."""
    if target.task in CLASS_TASKS:
        return target.classes[int(label)] if label >= 0 else ""
    if target.task == "multilabel":
        return BETWEEN.join(name for name, has in zip(target.classes, label, strict=True) if has == 1)
    return "" if np.isnan(label) else f"{label:.4g}"


def pixels_of(one: Alike, preparation: Preparation) -> UInt8[np.ndarray, "R R 3"] | None:
    """A training image as the LPM saw it; None where it cannot be read any more, or is another one now."""
    data, reason = bytes_or_reason(one.uri)
    if reason or hashlib.sha256(data).hexdigest() != one.sha256:
        return None
    try:
        return read_square(data, one.uri, preparation)
    except ImageError:
        return None
