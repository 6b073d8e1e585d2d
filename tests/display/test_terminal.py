"""What a command leaves behind where nobody reads it: in processes of their own, against what a shell shows."""

import subprocess
import sys

import pytest

from fpt_ray.display.terminal import run_command


def test_a_command_whose_output_nobody_reads_ends_quietly():
    code = "from fpt_ray.display.terminal import run_command; run_command(lambda: print('x' * {}))"
    for length in (10, 10**6):  # left in the buffer at the end; broken while printing
        with subprocess.Popen(
            [sys.executable, "-c", code.format(length)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            running.stdout.close()
            assert running.stderr.read() == ""
        assert running.returncode == 141  # as a shell shows what SIGPIPE ended


def test_another_broken_pipe_is_an_error(monkeypatch):
    def broken():
        raise BrokenPipeError("a socket")

    with open("/dev/null", "w") as read:
        monkeypatch.setattr(sys, "stdout", read)
        with pytest.raises(BrokenPipeError, match="a socket"):
            run_command(broken)
