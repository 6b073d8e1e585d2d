"""Storage on a real S3 server, through a proxy that fails a fifth of the requests, against the same without faults."""

import io
import os
import threading

import pyarrow as pa
import pytest
import torch
from s3_server import KEY, SECRET, TIMEOUT_S, proxy, seaweed
from stores import make_spec, make_store

from fpt_ray import s3, storage
from fpt_ray.rows import rows_from_files
from fpt_ray.s3 import StorageError
from fpt_ray.storage import ExistsError
from fpt_ray.store import open_store
from fpt_ray.store_spec import Slice

BUCKET = "s3://tests-bucket"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server, the proxy before it, and this process's environment set to use them."""
    folder = tmp_path_factory.mktemp("s3")
    with seaweed(folder) as port, proxy(port) as (proxy_port, faults), pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy_port}")
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "eu-north-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
        patch.setenv("FPT_RAY_S3_TIMEOUT_S", str(TIMEOUT_S))
        forget_clients()
        s3.client().create_bucket(Bucket="tests-bucket")
        yield faults
    forget_clients()


def forget_clients():
    s3.client.cache_clear()
    s3.filesystem.cache_clear()


@pytest.fixture
def faults(server):
    """The proxy's faults, none until a test asks for some."""
    yield server
    server.__init__()


@pytest.mark.parametrize("fault", ["500", "503", "reset", "cut", "hang"])
def test_one_fault_a_request_is_not_noticed(fault, faults):
    uri, content = f"{BUCKET}/one/{fault}", os.urandom(3_000_000)
    faults.only = fault
    storage.write_once(uri, content)
    assert storage.read_bytes(uri) == content
    assert [file.bytes for file in storage.list_files(f"{BUCKET}/one") if file.path == fault] == [3_000_000]
    assert faults.made[fault] >= 3
