"""What an outbox does where the disk is full, with a receiver that is there and one that is not."""

import pytest

from fpt_ray.errors import ConfigError
from fpt_ray.storage.errors import FullError
from fpt_ray.tracking.outbox import AwayError, Outbox
from fpt_ray.tracking.waiting import WaitingFile, waiting_file


def full(self, line):
    raise FullError("no room")


def test_what_waits_for_one_server_is_not_given_to_another(tmp_path):
    one = waiting_file(tmp_path, "http://user:secret@a:5000")
    assert one == waiting_file(tmp_path, "http://user:other@a:5000/")
    assert waiting_file(tmp_path, "http://b:5000") != one
    one.write_text("{}\n")
    assert waiting_file(tmp_path, "http://user:other@a:5000") == one
    with pytest.raises(ConfigError, match=f"tracking_uri: {one} waits for another MLflow server than http://b:5000; "):
        waiting_file(tmp_path, "http://b:5000")


def test_on_a_full_disk_a_line_is_delivered_instead_of_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(WaitingFile, "append", full)
    taken = []
    box = Outbox("it", tmp_path / "w.jsonl", tmp_path / "r.jsonl", lambda line: taken.append(line.text))
    for text in ("a", "b"):
        box.add(lambda text=text: text)
        assert taken[-1] == text
    box.close()


def test_on_a_full_disk_a_line_for_who_is_away_is_an_error(tmp_path, monkeypatch):
    def away(line):
        raise AwayError("gone")

    monkeypatch.setattr(WaitingFile, "append", full)
    box = Outbox("it", tmp_path / "w.jsonl", tmp_path / "r.jsonl", away)
    with pytest.raises(FullError, match="no room"):
        box.add(lambda: "a")
    box.close()
