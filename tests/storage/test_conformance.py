"""What every kind of storage does alike, on a temporary folder and on a real S3 server; and what only one kind can."""

import ast
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pytest

import fpt_ray
from fpt_ray.errors import ConfigError
from fpt_ray.storage import s3, s3_client
from fpt_ray.storage.errors import ExistsError, StorageError
from fpt_ray.storage.files import (
    abort_uploads,
    absolute,
    any_there,
    exists,
    failure_as_error,
    filesystem,
    is_location,
    leaving,
    list_files,
    local_copy,
    local_path,
    located,
    located_in,
    own_folder,
    read_bytes,
    remove,
    stamps,
    walk,
    write,
    write_once,
)
from fpt_ray.storage.local import append
from fpt_ray.storage.protocol import File
from tests.s3_server import BUCKET, forget_clients

NAMES = ("a.txt", "b c/ü.bin", "b/x", "b/x.y/z", "b0", "ba/x")
"""By path: a space, a slash and a dot stand before letters."""
WRITES = pytest.mark.parametrize("put", [write, write_once])


@pytest.fixture(params=["local", "s3"])
def kind(request):
    return request.param


@pytest.fixture
def root(kind, request, tmp_path):
    """A folder of this test's own, where nothing lies yet."""
    if kind == "local":
        return str(tmp_path / "root")
    request.getfixturevalue("faults")
    return f"s3://{BUCKET}/{tmp_path.name}/root"


@pytest.fixture
def failing(kind, request, monkeypatch):
    """Blocks in which the one write of a file named 500 fails."""

    def full(descriptor):
        raise OSError(28, "No space left on device")

    @contextmanager
    def block():
        with monkeypatch.context() as patch:
            if kind == "local":
                patch.setattr(os, "fsync", full)
            else:
                patch.setenv("AWS_MAX_ATTEMPTS", "1")
                forget_clients()
                request.getfixturevalue("faults").__init__()
                request.getfixturevalue("faults").by_name = True
            with pytest.raises(OSError if kind == "local" else StorageError):
                yield
        forget_faults()

    def forget_faults():
        if kind == "s3":
            request.getfixturevalue("faults").__init__()
            forget_clients()

    yield block
    forget_faults()


def filled(root):
    for name in NAMES:
        write(f"{root}/{name}", name.encode())
    return root


# --- places ---------------------------------------------------------------------------------------------------


def test_an_absolute_location_stays_and_has_no_slash_at_its_end(root):
    assert absolute(root) == root
    assert absolute(f"{root}/") == root
    assert is_location(root)


def test_a_whole_bucket_is_a_location():
    assert absolute(f"s3://{BUCKET}") == absolute(f"s3://{BUCKET}/") == f"s3://{BUCKET}"


def test_a_path_of_the_file_system_leads_to_the_same_file_and_back(root):
    write(f"{root}/a/b.bin", b"0123")
    system, path = filesystem(f"{root}/a/b.bin")
    with system.open_input_file(path) as file:
        assert file.read() == b"0123"
    assert located(path, root) == located_in(system, path) == f"{root}/a/b.bin"


def test_a_file_has_a_local_path_or_a_copy_that_ends(root, kind):
    write(f"{root}/a/b.safetensors", b"0123")
    there = local_path(f"{root}/a/b.safetensors")
    assert (there is None) == (kind == "s3")
    with local_copy(f"{root}/a/b.safetensors") as path:
        assert path.name == "b.safetensors"
        assert path.read_bytes() == b"0123"
        assert there in (None, path)
    assert path.exists() == (kind == "local")


def test_every_location_has_a_folder_of_its_own_on_this_machine(root, kind, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    wanted = Path(root) if kind == "local" else tmp_path / "state/fpt_ray" / root.removeprefix("s3://")
    assert own_folder(root) == own_folder(f"{root}/") == wanted


def test_what_only_the_driver_reads_of_a_place_on_s3_lies_in_the_users_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert own_folder("s3://bucket/work/studies/s") == tmp_path / "fpt_ray/bucket/work/studies/s"
    assert own_folder("s3://bucket//etc") == tmp_path / "fpt_ray/bucket/etc"
    assert own_folder("work/studies/s") == Path("work/studies/s")


@pytest.mark.parametrize("uri", ["s3://", "s3:///key", "s3://key:word@bucket/x", "gs://bucket/x"])
def test_what_is_no_location_is_refused_and_passwords_are_not_repeated(uri):
    for ask in (exists, absolute, list_files, read_bytes):
        with pytest.raises(ConfigError, match="give") as caught:
            ask(uri)
        assert "word" not in str(caught.value)
    assert is_location(uri) == uri.startswith("s3://")


def test_a_file_uri_is_a_local_path():
    assert is_location("file:///a/b")
    assert local_path("file:///a/b") == local_path("/a/b") == Path("/a/b")
    assert absolute("file:///a/../b") == "/b"
    assert absolute("b") == f"{os.getcwd()}/b"
    assert located_in(None, "/a/b") == "/a/b"


# --- reading --------------------------------------------------------------------------------------------------


@WRITES
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_what_was_written_is_read(put, size, root):
    content = os.urandom(size)
    assert not exists(f"{root}/x/y.bin")
    put(f"{root}/x/y.bin", content)
    assert exists(f"{root}/x/y.bin")
    assert read_bytes(f"{root}/x/y.bin") == content
    assert read_bytes(f"{root}/x/y.bin", 10) == content[:10]


def test_what_is_missing_is_told_as_such(root):
    write(f"{root}/folder/x", b"x")
    for path in ("none", "folder", "folder/none", "folder/x/y"):
        assert not exists(f"{root}/{path}")
        with pytest.raises(FileNotFoundError):
            read_bytes(f"{root}/{path}")
    assert list_files(f"{root}/none") == []
    with pytest.raises(FileNotFoundError):
        walk(f"{root}/none")


def test_files_are_listed_by_path_with_their_sizes_and_no_neighbours(root):
    filled(root)
    write(f"{root}2/neighbour", b"")
    assert [(file.path, file.bytes) for file in list_files(root)] == [(name, len(name.encode())) for name in NAMES]
    assert [file.path for file in list_files(f"{root}/b")] == ["x", "x.y/z"]
    assert list_files(f"{root}/") == list_files(root)


def test_only_what_follows_a_name_is_listed(root):
    names = ["00000001.json", "00000002.json", "00000010.json"]
    for name in names:
        write(f"{root}/{name}", b"")
    for after in ("", "00000000.json", "00000001.json", "00000009.json", "00000010.json"):
        assert [file.path for file in list_files(root, after)] == [name for name in names if name > after]


def test_a_walk_meets_every_name(root):
    filled(root)
    write(f"{root}/.hidden/x", b"")
    entries = walk(root)
    assert sorted(entry.path for entry in entries if not entry.path.endswith("/")) == sorted([*NAMES, ".hidden/x"])
    assert not any(entry.fault for entry in entries)


def test_a_stamp_changes_with_the_content_and_only_then(root):
    for name in ("x", "d/y"):
        write(f"{root}/{name}", b"1")
    first = list(stamps(root, ["d/y", "none", "x"]))
    assert first == list(stamps(root, ["d/y", "none", "x"]))
    assert [stamp.partition("|")[0] for stamp in first] == ["d/y", "none", "x"]
    assert first[1] == "none|gone"
    time.sleep(0.05)  # a disk's clock may stand still for some milliseconds, and the size stays
    write(f"{root}/x", b"2")
    second = list(stamps(root, ["d/y", "none", "x"]))
    assert second[:2] == first[:2]
    assert second[2] != first[2]
    assert second[2] == f"x|{list_files(root)[1].stamp}"
    assert list(stamps(root, ["d/y", "d/none"])) == [first[0], "d/none|gone"]
    assert list(stamps(f"{root}/none", ["x"])) == ["x|gone"]
    assert list(stamps(root, ["d/y"])) == first[:1]
    assert any_there(root, ["d/none", "d/y"])
    assert not any_there(root, ["d/none", "none"])


def test_one_file_is_asked_for_without_listing_its_folder(faults):
    write(f"s3://{BUCKET}/alone/a/x", b"")
    faults.__init__()
    assert next(stamps(f"s3://{BUCKET}/alone", ["a/x"])).startswith("a/x|0|")
    assert list(faults.seen) == [f"HEAD /{BUCKET}/alone/a/x"]


def test_a_plain_path_does_not_leave_its_root(root):
    write(f"{root}/a/x", b"")
    assert leaving(root, pa.array(["a/x", "none", "no/file"])) is None


def test_only_failures_of_a_service_become_another_error(root):
    for error in (ValueError("x"), FileNotFoundError("y"), OSError(28, "No space left on device")):
        with pytest.raises(type(error)) as caught, failure_as_error(root):
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("paths", "listed"),
    [
        (["train/a/1", "train/a/2"], ["s3://b/train/a"]),
        (["train/a1/1", "train/a2/2", "val/3"], ["s3://b/train", "s3://b/val"]),
        (["1", "train/a/1"], ["s3://b"]),
        ([f"{number}/1" for number in range(100)], ["s3://b"]),
        ([], []),
    ],
)
def test_only_folders_that_hold_the_files_are_listed(monkeypatch, paths, listed):
    """A bucket with a table holds stores, too."""
    there, asked = [*paths[:-1], "features/x"], []

    def list_files(uri):
        asked.append(uri)
        below = f"{uri}/".removeprefix("s3://b/")
        return [File(path=one.removeprefix(below), bytes=1, stamp="s") for one in there if one.startswith(below)]

    monkeypatch.setattr(s3, "list_files", list_files)
    assert list(stamps("s3://b", paths)) == [f"{path}|{'s' if path in there else 'gone'}" for path in paths]
    assert sorted(asked) == listed


# --- writing --------------------------------------------------------------------------------------------------


def test_a_written_file_takes_the_place_of_another(root):
    write(f"{root}/x", b"long")
    write(f"{root}/x", b"1")
    assert read_bytes(f"{root}/x") == b"1"
    assert [file.path for file in list_files(root)] == ["x"]


def test_a_file_is_written_once(root):
    write_once(f"{root}/x", b"1")
    write_once(f"{root}/x", pa.py_buffer(b"1"))  # the same again is no error
    for other in (b"2", b"", b"11"):
        with pytest.raises(ExistsError) as caught:
            write_once(f"{root}/x", other)
        assert str(caught.value) == f"{root}/x exists already with another content and was left as it is"
    assert read_bytes(f"{root}/x") == b"1"
    assert [file.path for file in list_files(root)] == ["x"]


def test_of_many_writers_one_wins_and_the_others_are_told(root):
    uri, start = f"{root}/m.json", Barrier(8)

    def write_mine(number):
        start.wait()
        try:
            write_once(uri, b"%d" % number)
        except ExistsError as error:
            return str(error)
        return number

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(write_mine, range(8)))
    (winner,) = (one for one in told if isinstance(one, int))
    assert {one for one in told if one != winner} == {
        f"{uri} exists already with another content and was left as it is"
    }
    assert read_bytes(uri) == b"%d" % winner
    write_once(uri, b"%d" % winner)
    assert [file.path for file in list_files(root)] == ["m.json"]


@WRITES
def test_a_failed_write_leaves_nothing(put, root, failing):
    with failing():
        put(f"{root}/500", b"new")
    assert list_files(root) == []


def test_a_failed_write_leaves_what_was_there(root, failing):
    write(f"{root}/500", b"old")
    with failing():
        write(f"{root}/500", b"new")
    assert read_bytes(f"{root}/500") == b"old"
    assert [file.path for file in list_files(root)] == ["500"]


def test_only_what_is_named_is_removed(root):
    filled(root)
    remove(root, ["b/x", "none", "b c/ü.bin"])
    assert [file.path for file in list_files(root)] == ["a.txt", "b/x.y/z", "b0", "ba/x"]
    remove(root, [])
    remove(f"{root}/b", ["x.y/z"])
    assert [file.path for file in list_files(root)] == ["a.txt", "b0", "ba/x"]
    with pytest.raises(FileNotFoundError):
        walk(f"{root}/b")  # no folder is left of it


def test_a_folder_whose_files_are_removed_is_gone(root):
    filled(root)
    remove(root, NAMES)
    assert list_files(root) == []
    with pytest.raises(FileNotFoundError):
        walk(root)
    remove(root, NAMES)  # nor is there an error when all is gone


def test_folders_that_others_have_made_stay(tmp_path):
    filled(tmp_path)
    for name in ("mine/of mine", "b/empty"):
        (tmp_path / name).mkdir(parents=True)
    remove(str(tmp_path), NAMES)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "b",
        "b/empty",
        "mine",
        "mine/of mine",
    ]


def test_more_files_than_a_request_takes_are_listed_and_removed(root):
    names = sorted(f"{number}.bin" for number in range(1002))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: write(f"{root}/{name}", b"x"), names))
    assert [file.path for file in list_files(root)] == names
    remove(root, names[:-1])
    assert [file.path for file in list_files(root)] == names[-1:]


def test_unfinished_uploads_are_aborted_and_counted(root, kind):
    write(f"{root}/x", b"1")
    if kind == "s3":
        for key in ("root/y", "root2/y"):
            prefix = root.removeprefix(f"s3://{BUCKET}/").removesuffix("root")
            s3_client.client().create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}{key}")
    assert abort_uploads(root) == (1 if kind == "s3" else 0)
    assert abort_uploads(root) == 0
    assert [file.path for file in list_files(root)] == ["x"]


# --- a disk alone ---------------------------------------------------------------------------------------------


def test_the_first_link_that_leaves_is_named(tmp_path):
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "root/up").symlink_to(tmp_path)
    (tmp_path / "root/a/out").symlink_to(tmp_path / "x")
    (tmp_path / "root/a/in").symlink_to(tmp_path / "root/y")
    os.symlink(tmp_path, os.fsencode(tmp_path) + b"/root/a/\xff")  # a name that is not UTF-8 is none of a path's
    for paths, first in {
        ("a/in", "a/y"): None,
        ("a/in", "a/out"): "a/out",
        ("x", "up/gone/z", "a/out"): "up/gone/z",
    }.items():
        assert leaving(f"{tmp_path}/root", pa.array(paths)) == first


def test_a_walk_says_what_it_does_not_enter(tmp_path, monkeypatch):
    for name in ("b/x", "closed/x", "a"):
        write(f"{tmp_path}/{name}", b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    scan = os.scandir

    def scan_if_open(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_if_open)  # root may read anything
    assert [(entry.path, entry.fault) for entry in walk(str(tmp_path))] == [
        ("a", ""),
        ("b/", ""),
        ("b/x", ""),
        ("closed/", "is a folder that cannot be read (Permission denied)"),
        ("empty/", ""),
        ("link/", "is a link to a folder; put the folder itself in its place"),
        ("loop", ""),
    ]


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        read_bytes(f"{tmp_path}/pipe")


def test_what_is_appended_is_whole_or_not_there(tmp_path, monkeypatch):
    append(tmp_path / "log", b"one\n")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            append(tmp_path / "log", b"two\n")
    append(tmp_path / "log", b"three\n")
    assert (tmp_path / "log").read_bytes() == b"one\nthree\n"


# --- the rest of the package ----------------------------------------------------------------------------------


def test_nobody_else_knows_s3():
    """No module outside of storage/ imports boto3, the S3 side of storage, or asks for pyarrow's S3."""
    package = Path(fpt_ray.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent == package / "storage":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names += [f"{node.module}.{name}" for name in names] if isinstance(node, ast.ImportFrom) else []
                taken = [name for name in names if "boto" in name or "S3FileSystem" in name or ".storage.s3" in name]
                assert not taken, f"{path}:{node.lineno} imports {taken}; ask fpt_ray.storage.files instead"
