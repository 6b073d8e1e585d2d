"""Images that a store has already: what is read of it against what the LPM computes, bit for bit."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fpt_ray.config.trial import override
from fpt_ray.errors import ConfigError
from fpt_ray.features.spec import StoreError
from fpt_ray.predict.classifier import load
from fpt_ray.predict.command import Command, run
from fpt_ray.predict.ensemble import ensemble_of
from fpt_ray.predict.seen import seen_by
from fpt_ray.predict.stored import stores_of
from fpt_ray.train.bundle import read_bundle
from tests.predict.bundles import TRIAL, left, squared, stored, table_of_images
from tests.stores import draw_images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(workdir with a store of all images but those of test, the whole table, {method: bundle})."""
    workdir = tmp_path_factory.mktemp("work")
    table = table_of_images(draw_images(workdir / "images"))
    wide = override(TRIAL, {"side.depth": 4, "features.token_ratio": 0.5})
    known = table.take(np.flatnonzero(table.splits != 2))
    stored(wide, known, workdir / "features/wide")
    bundles = {}
    for method in ("fpt+", "layer_fusion"):
        folder = tmp_path_factory.mktemp("bundle")
        trial = override(TRIAL, {"method": method})
        bundles[method] = left(trial, stored(trial, table, folder / "store"), folder)
    return str(workdir), table, bundles


def images_of(table, places):
    rows = [table.row(place) for place in places]
    return np.stack([squared(table, row, 64) for row in rows]), [row.sha256 for row in rows]


@pytest.mark.parametrize("method", ["fpt+", "layer_fusion"])
def test_the_lpm_looks_only_at_images_that_no_store_has_and_the_numbers_are_the_same(method, made, monkeypatch):
    workdir, table, bundles = made
    bundle = read_bundle(bundles[method])
    stores, places = stores_of(workdir, [bundle.spec]), [0, int(np.flatnonzero(table.splits == 2)[0]), 5, 1]
    assert len(stores) == 1
    images, hashes = images_of(table, places)
    ensemble = dataclasses.replace(ensemble_of({"it": bundle}, torch.device("cpu")), stores=stores)
    squares, asked = {bundle.spec.preparation: images}, []
    expected = ensemble.answers(squares)
    lpm = ensemble.members[0].lpm
    whole = type(lpm).forward_features
    monkeypatch.setattr(type(lpm), "forward_features", lambda self, x, **more: asked.append(len(x)) or whole(self, x))
    found = ensemble.answers(squares, hashes)
    assert sum(asked) == 1, "the one of the test split, which the store lacks"
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.familiarity, expected.familiarity, atol=1e-6)
    read, made_anew = seen_by(lpm, images, bundle.spec, stores, hashes), seen_by(lpm, images, bundle.spec)
    for name in ("keys", "values", "summaries"):
        of_store, computed = getattr(read[0].features, name).float(), getattr(made_anew[0].features, name).float()
        torch.testing.assert_close(of_store, computed, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    "changes",
    [{"weights_digest": "0" * 64}, {"precision": "bfloat16"}, {"importance": "class_token"}, {"blocks": (0,)}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_store_of_other_numbers_or_of_less_serves_none(changes, made):
    workdir, _, bundles = made
    spec = read_bundle(bundles["fpt+"]).spec
    assert stores_of(workdir, [spec])
    assert not stores_of(workdir, [dataclasses.replace(spec, **changes)])
    assert not stores_of(f"{workdir}/nowhere", [spec])


def test_images_are_read_from_whichever_store_has_them(made, tmp_path, monkeypatch):
    workdir, table, bundles = made
    bundle = read_bundle(bundles["fpt+"])
    shutil.copytree(Path(workdir, "features/wide"), tmp_path / "features/a")
    wide = override(TRIAL, {"side.depth": 4, "features.token_ratio": 0.5})
    stored(wide, table.take(np.flatnonzero(table.splits == 2)), tmp_path / "features/b")
    ensemble = ensemble_of({"it": bundle}, torch.device("cpu"))
    ensemble = dataclasses.replace(ensemble, stores=stores_of(str(tmp_path), ensemble.asked))
    assert len(ensemble.stores) == 2
    images, hashes = images_of(table, [0, int(np.flatnonzero(table.splits == 2)[0]), 5])
    expected = ensemble.answers({bundle.spec.preparation: images})
    monkeypatch.setattr(type(ensemble.members[0].lpm), "forward_features", None)
    found = ensemble.answers({bundle.spec.preparation: images}, hashes)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_what_several_bundles_ask_together_must_be_in_one_store(made):
    """Each block that they read is in some store, and no store has both: the LPM would look, whatever was announced."""
    workdir, _, bundles = made
    one = read_bundle(bundles["fpt+"])
    stored_blocks = stores_of(workdir, [one.spec])[0].store.spec.blocks
    lacking = next(block for block in range(12) if block not in stored_blocks)
    other = dataclasses.replace(one, spec=dataclasses.replace(one.spec, blocks=(lacking, one.spec.blocks[-1])))
    ensemble = ensemble_of({"a": one, "b": other}, torch.device("cpu"))
    (asked,) = ensemble.asked
    assert asked.blocks == tuple(sorted({*one.spec.blocks, lacking}))
    assert stores_of(workdir, [one.spec, other.spec])
    assert not stores_of(workdir, ensemble.asked)


def test_a_damaged_store_that_serves_none_is_nobodys_business(made, tmp_path):
    workdir, _, bundles = made
    shutil.copytree(Path(workdir, "features/wide"), tmp_path / "features/other")
    (manifest,) = (tmp_path / "features/other").glob("manifest-*.json")
    (index,) = (tmp_path / "features/other/index").iterdir()
    index.write_bytes(b"damaged")
    spec = read_bundle(bundles["fpt+"]).spec
    with pytest.raises(StoreError, match=r"was changed since it was written"):
        stores_of(str(tmp_path), [spec])
    manifest.write_text(manifest.read_text().replace('"precision": "float32"', '"precision": "bfloat16"'))
    assert stores_of(str(tmp_path), [spec]) == ()


def test_what_is_no_store_is_passed_over_and_what_is_damaged_is_said(made, tmp_path):
    workdir, table, bundles = made
    spec = read_bundle(bundles["fpt+"]).spec
    shutil.copytree(Path(workdir, "features/wide"), tmp_path / "features/wide")
    (tmp_path / "features/half").mkdir()
    (tmp_path / "features/half/shard").write_bytes(b"")
    (one,) = stores_of(str(tmp_path), [spec])
    _, hashes = images_of(table, [0])
    spoil_the_shard(tmp_path / "features/wide")
    with pytest.raises(StoreError, match=r"\.parquet"):
        one.features(hashes, spec)


def spoil_the_shard(store):
    (shard,) = {file for file in store.rglob("*.parquet") if "index" not in str(file)}
    content = bytearray(shard.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    shard.write_bytes(content)


@pytest.mark.slow
def test_a_store_that_is_damaged_ends_the_command_in_one_line(cluster, made, tmp_path):
    """An actor finds it: what it says comes through Ray as what it is."""
    workdir, table, bundles = made
    shutil.copytree(Path(workdir, "features/wide"), tmp_path / "features/wide")
    spoil_the_shard(tmp_path / "features/wide")
    command = Command(model=bundles["fpt+"], images=table.root, out=str(tmp_path / "o.csv"), workdir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"^[^\n]*shards/[^\n]*\.parquet[^\n]*$"):
        run(command)
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.slow
def test_the_command_reads_what_the_stores_of_its_workdir_have(cluster, made, tmp_path, capsys):
    workdir, table, bundles = made
    run(Command(model=bundles["layer_fusion"], images=table.root, out=str(tmp_path / "o.parquet"), workdir=workdir))
    assert f"features that are in the store {workdir}/features/wide are read from it" in capsys.readouterr().err
    found = pq.read_table(tmp_path / "o.parquet").to_pydict()
    paths = [Path(table.root, path) for path in found["path"]]
    assert found["sha256"] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    expected = load(bundles["layer_fusion"]).predict(paths).probabilities
    np.testing.assert_allclose(found["probability_c1"], expected[:, 1], atol=1e-6)
