"""What the tests are tested with: the core with one line made wrong, and the test that must fail by it.

``python -m tests.mutations [WORDS]`` applies each mutation to a copy of the tree, runs only the tests that the row
names, and says which one failed; with words, only rows that hold one of them. It ends with an error if a mutation
survives. ``--markdown`` prints docs/mutations.md instead. The list is a sample: any such mutation should be caught.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import pytest

from tests.mutation_table import MUTATIONS, Mutation

Result = TypeVar("Result")
ROOT = Path(__file__).parents[1]
AT_ONCE = 2
"""Mutations that are tried side by side, each in a copy of its own."""
LIMIT_S = 240
FORKS = multiprocessing.get_context("forkserver")
LIBRARIES = (
    "torch",
    "timm",
    "peft",
    "sklearn.metrics",
    "torchvision",
    "pyarrow.parquet",
    "optuna",
    "ray.tune",
    "beartype",
)
"""Imported once, for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a mutation."""

    mutation: Mutation
    failed: str | None
    """The test that failed; None: the mutation survived."""
    seconds: float


def copied_tree(folder: Path) -> Path:
    """A copy of what git knows of this tree, changes that are not committed included."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def mutated(mutation: Mutation, source: str) -> str:
    """The file's text with the mutation in it.

    Raises:
        ValueError: the line is not there, or more than once.
    """
    if (found := source.count(mutation.line)) != 1:
        raise ValueError(f"{mutation.file} has the text {mutation.line!r} {found} times, not once")
    return source.replace(mutation.line, mutation.wrong)


def outcome(mutation: Mutation, tree: Path) -> Outcome:
    """Runs the row's tests on a copy of the tree with the mutation in it, and takes the mutation out again."""
    file, started = tree / mutation.file, time.monotonic()
    right = file.read_text()
    file.write_text(mutated(mutation, right))
    try:
        name = tested(mutation, tree)
    finally:
        file.write_text(right)
    return Outcome(mutation=mutation, failed=name, seconds=time.monotonic() - started)


def tested(mutation: Mutation, tree: Path) -> str | None:
    """The first test that fails, or that a room cannot be imported; None if all pass.

    Raises:
        RuntimeError: the tests cannot be run, or do not end in time.
    """
    ours, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=run_tests, args=(mutation, tree, theirs))
    process.start()
    theirs.close()
    try:
        if not ours.poll(LIMIT_S):
            # On a busy machine right code is as slow: this says nothing of the mutation.
            raise RuntimeError(f"{mutation.test} -k {mutation.only!r} on {mutation.file}: not done in {LIMIT_S} s")
        status, failed = ours.recv()
    except EOFError:
        raise RuntimeError(f"the process died that ran {mutation.test} on {mutation.file}") from None
    finally:
        process.kill()
        process.join()
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"{mutation.test} -k {mutation.only!r} on {mutation.file}: {status!r} {failed}")
    return failed[0] if failed else None


class Watching:
    """Pytest's plugin that notes what failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid.partition("::")[2].partition("[")[0])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(f"collecting {report.nodeid}")


def run_tests(mutation: Mutation, tree: Path, answer: Connection) -> None:
    """In a process of its own that holds the libraries, but nothing of this project: sends (exit status, failures)."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "fpt_ray")]:
        del sys.modules[name]
    os.chdir(tree)
    os.environ["PYTHONPATH"] = sys.path[0] = str(tree)
    watching = Watching()
    options = ["-x", "-q", "--tb=no", "--assert=plain", "-m", "not slow", mutation.test]
    options += ["-k", mutation.only] if mutation.only else []
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        status = pytest.main(options, plugins=[watching])
    answer.send((status, watching.failed))


def outcomes(mutations: Sequence[Mutation]) -> Iterator[Outcome]:
    """What becomes of each, in their order, once all tests they name have passed without them."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(AT_ONCE):
            trees.put(copied_tree(Path(folder, str(number))))

        def run(attempt: Callable[[Mutation, Path], Result], mutation: Mutation) -> Result:
            tree = trees.get()
            try:
                return attempt(mutation, tree)
            finally:
                trees.put(tree)

        rows = {(one.test, one.only): one for one in mutations}.values()
        for row, failed in zip(rows, pool.map(partial(run, tested), rows), strict=True):
            if failed:
                raise RuntimeError(f"{failed} of {row.test} fails without a mutation, too")
        yield from pool.map(partial(run, outcome), mutations)


# --- shown --------------------------------------------------------------------------------------------------------

PAGE = """# Mutations

`python -m tests.mutations` makes one line of the core wrong at a time, in a copy of the tree, and runs the tests that
the row names: one of them must fail. The list is a sample. Where you find a wrong line that no test notices, write the
test, and add the line to `tests/mutation_table.py`; this page is printed by `python -m tests.mutations --markdown`.

| File | Line | Made wrong | Caught by |
| --- | --- | --- | --- |
"""


def markdown() -> str:
    """The page docs/mutations.md."""
    return PAGE + "".join(
        f"| `{one.file.removeprefix('fpt_ray/')}` | {_code(one.line)} | {_code(one.wrong)} "
        f"| `{one.test.removeprefix('tests/')}` |\n"
        for one in MUTATIONS
    )


def _code(line: str) -> str:
    shown = " ".join(line.split()).replace("|", "\\|")
    return f"`{shown}`" if shown else "nothing"


def main(words: Sequence[str]) -> int:
    """Tries the mutations that hold one of the words, or all; returns the number that survived."""
    chosen = [one for one in MUTATIONS if not words or any(word in f"{one.file} {one.line}" for word in words)]
    os.environ["OMP_NUM_THREADS"] = "1"
    FORKS.set_forkserver_preload(list(LIBRARIES))
    started, survived = time.monotonic(), 0
    for one in outcomes(chosen):
        survived += one.failed is None
        mutation = one.mutation
        place = f"{mutation.file.removeprefix('fpt_ray/')}: {' '.join(mutation.wrong.split()) or 'left out'}"
        print(f"{one.seconds:5.1f} s  {place}\n         {one.failed or 'SURVIVED'}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} caught in {time.monotonic() - started:.0f} s")
    return survived


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("words", nargs="*", help="only mutations whose file or line holds one of these")
    parser.add_argument("--markdown", action="store_true", help="print the page docs/mutations.md")
    options = parser.parse_args()
    if options.markdown:
        print(markdown(), end="")
    else:
        sys.exit(1 if main(options.words) else 0)
