"""The estimate of a preload, compared with schedules written out by hand."""

import pytest

from fpt_ray.preload.extraction import SHARDS_AT_ONCE, Layout
from fpt_ray.preload.pace import Pace, estimated_seconds, fastest, seconds_each, writers

PACE = Pace(start_s=5.0, reading_s=0.1, extraction_s={1: 1.7, 2: 0.9}, writing_s=0.1)


def layout(actors, threads, gpus=0.0, readers=2):
    return Layout(actors=actors, cpus=1.0, gpus=gpus, threads=threads, readers=readers)


def test_on_cpus_reading_and_writing_take_the_time_of_the_actors_cores():
    sizes = [25, 25, 14]
    one = 5 + 2.5 + 64 * (0.9 + 0.1) + 1.4
    two = 5 + 2.5 + (25 + 14) * (1.7 + 0.2) + 1.4  # an actor has two of the three shards
    assert estimated_seconds(layout(1, 2), PACE, sizes) == pytest.approx(one)
    assert estimated_seconds(layout(2, 1), PACE, sizes) == pytest.approx(two)
    assert fastest([layout(2, 1), layout(1, 2)], PACE, sizes) == (layout(1, 2), pytest.approx(one))
    assert fastest([layout(2, 1), layout(1, 2)], PACE, [25] * 8)[0] == layout(2, 1)


def test_on_gpus_the_slowest_of_reading_computing_and_writing_counts():
    sizes = [20] * 10

    def seconds(reading_s, computing, writing_s):
        pace = Pace(start_s=0.0, reading_s=reading_s, extraction_s={1: computing}, writing_s=writing_s)
        return estimated_seconds(layout(2, 1, gpus=1.0, readers=4), pace, sizes) - 20 * (reading_s + writing_s)

    assert seconds(0.001, 0.1, 0.001) == pytest.approx(100 * 0.1)
    assert seconds(1.0, 0.1, 0.001) == pytest.approx(100 * 1.0 / 2)  # two readers for each actor
    assert seconds(0.001, 0.1, 1.0) == pytest.approx(100 * 1.1 / SHARDS_AT_ONCE["cuda"])


def test_of_equal_layouts_the_one_of_fewest_actors_is_taken():
    pace = Pace(start_s=0.0, reading_s=0.0, extraction_s={1: 2.0, 2: 1.0}, writing_s=0.0)
    assert fastest([layout(2, 1), layout(1, 2)], pace, [5, 5])[0] == layout(1, 2)


def test_images_alone_have_a_writer_for_each_host_and_all_other_cpus_read():
    found = writers([{"CPU": 4.0}, {"CPU": 2.0}], shards=10)
    assert (found.actors, found.gpus, found.readers) == (2, 0.0, 12)
    assert writers([{"CPU": 4.0}, {"CPU": 2.0}], shards=1).actors == 1


def test_what_is_quick_is_measured_of_more_images():
    """A call of 50 ms and 1 ms an image: of four images one would seem to take 13.5 ms."""
    asked = []

    def seconds_of(number):
        asked.append(number)
        return 0.05 + 0.001 * number

    assert seconds_each(seconds_of, 4, 512) == pytest.approx(0.05 / 64 + 0.001)
    assert asked == [4, 16, 64]
    assert seconds_each(seconds_of, 4, 10) == pytest.approx(0.006)
    assert seconds_each(seconds_of, 4, 3) == pytest.approx(0.053 / 3)
    assert seconds_each(lambda _: 3.0, 4, 512) == 0.75, "what takes long is not repeated"
