"""A real S3 server for the files of this folder, behind a proxy that fails when a test asks for it."""

import pytest

from tests.s3_server import served


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, served(tmp_path_factory.mktemp("s3"), patch) as faults:
        yield faults


@pytest.fixture
def faults(server):
    """The proxy's faults, none until a test asks for some."""
    server.__init__()
    yield server
    server.__init__()
