"""Which bundles of a study that goes on are written again."""

import json

import pytest

from fpt_ray.train.bundle import BACKBONE_FILE, BUNDLE_FILE
from fpt_ray.tune.bundles import _is_left


@pytest.mark.parametrize(
    ("metrics", "files", "with_backbone", "tested", "left"),
    [
        (["val_auc", "test_auc"], [], False, True, True),
        (["val_auc"], [], False, False, True),
        (["val_auc"], [], False, True, False),  # its test split has been read since
        (["val_auc", "test_auc"], [], True, True, False),  # the LPM is asked for since
        (["val_auc", "test_auc"], [BACKBONE_FILE], True, True, True),
        (["val_auc", "test_auc"], [BACKBONE_FILE], False, False, True),
    ],
)
def test_a_bundle_is_left_alone_if_it_has_all_that_it_is_to_have(tmp_path, metrics, files, with_backbone, tested, left):
    assert not _is_left(str(tmp_path), with_backbone, tested)
    document = {"metrics": dict.fromkeys(metrics, 0.5), "sha256": dict.fromkeys(files, "0")}
    (tmp_path / BUNDLE_FILE).write_text(json.dumps(document))
    assert _is_left(str(tmp_path), with_backbone, tested) == left
