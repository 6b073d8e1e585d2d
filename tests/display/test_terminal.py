"""What a command leaves behind where nobody reads it: in processes of their own, against what a shell shows."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpt_ray.display.terminal import password_in, run_command, without_lines, without_secrets

PASSWORDS = ("hunter2", "hun/ter2", "hun@ter2", "h@n/t@r:2?#", "@hunter/", "hun%2Fter%402", "hun://ter2", "hun'ter\"2")
PLACES = (
    "postgresql://{}@db.example:5432/mlflow",
    "mysql+pymysql://{}@db.example/mlflow?charset=utf8",
    "https://{}@mlflow.example/path",
    "s3://{}@bucket/prefix",
)


def test_a_command_whose_output_nobody_reads_ends_quietly():
    code = "from fpt_ray.display.terminal import run_command; run_command(lambda: print('x' * {}))"
    for length in (10, 10**6):  # left in the buffer at the end; broken while printing
        with subprocess.Popen(
            [sys.executable, "-c", code.format(length)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            running.stdout.close()
            assert running.stderr.read() == ""
        assert running.returncode == 141  # as a shell shows what SIGPIPE ended


@pytest.mark.parametrize("user", ["me", ""])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("password", PASSWORDS)
def test_no_password_of_a_url_is_shown_however_it_is_written(password, place, user):
    url = place.format(f"{user}:{password}")
    hidden = place.format("***")
    assert password_in(url) == password
    assert without_secrets(url) == hidden
    assert without_secrets(f"cannot reach {url} (as {password})", url) == f"cannot reach {hidden} (as ***)"
    if not set("'\"") & set(password):  # which end a URL in a text
        assert without_secrets(f"a@b cannot reach '{url}'; c@d") == f"a@b cannot reach '{hidden}'; c@d"


def test_a_password_that_a_library_has_decoded_is_not_shown_either():
    url = "postgresql://me:hun%2Fter2@db.example/mlflow"
    assert without_secrets("no login for me with hun/ter2", url) == "no login for me with ***"


def test_a_traceback_shows_no_password_of_the_command_line_or_the_environment(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fpt-ray", "--storage=postgresql://me:hunt'er2@db.example/optuna"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:tr/out@mlflow.example")
    with pytest.raises(SystemExit):
        run_command(lambda: {}["hunt'er2 and tr/out"])
    said = capsys.readouterr().err
    assert "*** and ***" in said
    assert "er2 and" not in said


def test_another_broken_pipe_is_an_error(monkeypatch):
    def broken():
        raise BrokenPipeError("a socket")

    with open("/dev/null", "w") as read:
        monkeypatch.setattr(sys, "stdout", read)
        with pytest.raises(BrokenPipeError, match="a socket"):
            run_command(broken)


def test_a_log_on_a_full_disk_does_not_end_the_work():
    code = "from fpt_ray.display.terminal import say; say('one line'); print('went on')"
    with Path("/dev/full").open("w") as log:
        ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=log, text=True, check=True)
    assert ran.stdout == "went on\n"


def test_lines_of_libraries_that_no_logger_holds_back_are_left_out(capfd):
    with without_lines("of no use"):
        os.write(2, b"a bar 1/2\ra line of no use to anybody\na bar 2/2\n")
        os.write(2, b"said\n")
    os.write(2, b"later, of no use\n")
    assert capfd.readouterr().err == "a bar 1/2\ra bar 2/2\nsaid\nlater, of no use\n"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_place_that_may_not_be_written_to_is_told_in_one_line(number, capsys):
    def main():
        raise OSError(number, os.strerror(number), "/somebody/elses/front.md")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    said = f"error: /somebody/elses/front.md: {os.strerror(number)}; give a place that can be read and written\n"
    assert (ended.value.code, capsys.readouterr().err) == (2, said)


def test_another_error_of_a_file_is_a_defect_with_all_of_it(capsys):
    def main():
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/disk/file")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 1
    assert "Traceback" in capsys.readouterr().err
