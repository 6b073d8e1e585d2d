"""What a writer of shards says of what kept one from being written."""

import errno
import os
from types import SimpleNamespace

import pyarrow as pa
import pytest

from fpt_ray.preload import extraction
from fpt_ray.preload.extraction import ShardWriter


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free space and start"), (errno.EACCES, "give a place that can be written and start")],
)
def test_a_shard_that_cannot_be_written_has_the_remedy_of_its_reason(number, remedy, monkeypatch):
    def failing(shard):
        raise OSError(number, os.strerror(number))

    writer = ShardWriter.__new__(ShardWriter)  # without a model: nothing is extracted
    writer.spec, writer._write = SimpleNamespace(low_resolutions=()), failing
    shard = SimpleNamespace(error="", plan=SimpleNamespace(uri="store/shards/a.parquet"))
    monkeypatch.setattr(extraction, "shard_of", lambda *_: shard)
    (error,) = writer(pa.table({}))["error"].to_pylist()
    assert error.startswith(f"store/shards/a.parquet cannot be written ([Errno {number}]")
    assert f"; {remedy} again, finished shards are kept" in error
