"""Images that are withdrawn stay away, whenever a removal is killed and whatever else is written meanwhile."""

from pathlib import Path

import pytest

from fpt_ray.features import verification, withdrawal
from fpt_ray.features.shards import write_shard
from fpt_ray.features.spec import StoreError
from fpt_ray.features.store import open_store, shard_path
from fpt_ray.features.verification import remove_leftovers, store_faults, unlisted_shards
from fpt_ray.features.withdrawal import forget
from fpt_ray.images.table import content_hashes
from tests.features.test_store import small_table
from tests.stores import add_rows, low_res, make_features, make_rows, make_spec, make_store

SPEC = make_spec()
FIRST, SECOND = make_rows("train", 1)[0].sha256, make_rows("val", 1)[0].sha256


@pytest.fixture
def uri(tmp_path):
    return make_store(tmp_path, SPEC)[0].uri


@pytest.fixture
def killed(uri, monkeypatch):
    """A store from which an image was taken out, by a removal that was killed before it removed the files."""
    with monkeypatch.context() as patch:
        patch.setattr(withdrawal, "remove_leftovers", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            forget(uri, [FIRST])
    assert on_disk(uri, FIRST)
    return uri


def on_disk(uri, image):
    """Whether a file of a store holds an image."""
    files = [path for path in Path(uri).rglob("*") if path.is_file()]
    return any(bytes.fromhex(image) in (content := path.read_bytes()) or image.encode() in content for path in files)


def grown(uri, first=50):
    """The store with two more images."""
    images = make_rows("test", 2, first=first)
    return add_rows(uri, SPEC, images, make_features(SPEC, 2, first), low_res(SPEC, 2, first))


def test_a_removal_that_was_killed_is_ended_by_the_next_one(killed):
    forget(killed, [SECOND])
    assert not on_disk(killed, FIRST)
    assert not on_disk(killed, SECOND)
    assert unlisted_shards(open_store(killed)) == []


def test_a_removal_that_is_killed_again_goes_on_with_all_of_it(killed, monkeypatch):
    """Earlier manifests and index files go before the shards, by which the next generation sees that it is not done."""
    remove, calls = verification.remove, []

    def dies(uri, paths):
        calls.append(paths)
        if len(calls) == 2:
            raise KeyboardInterrupt
        remove(uri, paths)

    with monkeypatch.context() as patch:
        patch.setattr(verification, "remove", dies)
        with pytest.raises(KeyboardInterrupt):
            remove_leftovers(open_store(killed))
    remove_leftovers(grown(killed))
    assert not on_disk(killed, FIRST)


def test_the_same_command_again_ends_a_removal_and_says_so(killed):
    with pytest.raises(StoreError, match=r"does not hold 1.*; what an earlier removal had left is removed"):
        forget(killed, [FIRST])
    assert not on_disk(killed, FIRST)
    with pytest.raises(StoreError, match=r"does not hold 1.*; nothing was removed"):
        forget(killed, [FIRST])


def test_a_store_that_grows_still_names_what_is_to_be_removed(killed):
    """Else the old shard would be taken for one that a killed preload has left."""
    assert grown(killed).removed == open_store(killed).removed != ()
    assert unlisted_shards(open_store(killed)) == []
    remove_leftovers(open_store(killed))
    assert not on_disk(killed, FIRST)
    assert grown(killed, 90).removed == ()
    assert list(store_faults(open_store(killed))) == []


def test_an_image_in_a_shard_of_an_unfinished_preload_is_not_called_forgotten(uri):
    store, images = open_store(uri), make_rows("train", 2)
    path = shard_path(store, content_hashes(images))
    write_shard(f"{uri}/{path}", small_table(SPEC), SPEC)
    for image in (FIRST, "f" * 64):
        other = [image] if image == FIRST else [image, images[1].sha256]
        with pytest.raises(StoreError, match=rf"{path}, which the store does not list, holds such an image"):
            forget(uri, other)
    assert open_store(uri).generation == 3
    forget(uri, [SECOND])
    Path(uri, path).write_bytes(b"half")
    assert forget(uri, [FIRST]) == 1


def test_what_another_writer_has_put_meanwhile_stays(killed):
    """Its next generation, and the index file of one whose manifest comes last."""
    before = open_store(killed)
    later = grown(killed)
    index = f"index/{later.generation + 1:05d}-{'0' * 16}.parquet"
    Path(killed, index).write_bytes(b"of the next")
    remove_leftovers(before)
    assert open_store(killed).generation == later.generation == before.generation + 1
    assert index in [file.path for file in verification.list_files(killed)]
    assert not on_disk(killed, FIRST)
