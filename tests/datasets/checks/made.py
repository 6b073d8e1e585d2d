"""Tables of images and findings on them, made without any image."""

import numpy as np
import pyarrow as pa

from fpt_ray.datasets.findings import Finding, as_columns
from fpt_ray.images.columns import SPLITS
from fpt_ray.images.table import ImageTable


def made_table(rows, *, task="multiclass", classes=("a", "b"), groups=None, **further):
    """Rows are (path, label, split, content)."""
    paths, labels, splits, contents = zip(*rows, strict=True)
    hashes = [np.frombuffer(content.encode().ljust(32), np.uint8) for content in contents]
    kind = {"multilabel": np.float32, "regression": np.float64}.get(task, np.int64)
    return ImageTable(
        root="/images",
        task=task,
        classes=tuple(classes),
        paths=pa.array(paths, pa.string()),
        labels=np.array(labels, kind),
        splits=np.array([SPLITS.index(split) for split in splits], np.int8),
        groups=None if groups is None else pa.array(groups, pa.string()).dictionary_encode(),
        hashes_=np.stack(hashes),
        **further,
    )


def made_findings(table, **columns):
    """Findings of its rows: each content has its own pixels; ``columns`` has lists of other values."""
    hashes = table.hashes()
    random = np.random.default_rng(0).integers(0, 2**63, len(table)).tolist()
    own = {
        "sha256": [bytes(one) for one in hashes],
        "pixels": [bytes(one[:16]) for one in hashes],
        "perceptual": random,
    }
    usual = {"width": 640, "height": 480, "mode": "RGB", "bits": 8, "frames": 1, "one_colour": False}
    usual |= {"low": 0.0, "high": 255.0, "black": 0.0, "white": 255.0, "window": True, "patient": "", "profile": ""}
    usual |= {"means": (0.5, 0.25, 0.0), "squares": (0.25, 0.125, 0.0)}
    rows = [{**usual, **{name: values[row] for name, values in (own | columns).items()}} for row in range(len(table))]
    return as_columns([Finding(**row) for row in rows])
