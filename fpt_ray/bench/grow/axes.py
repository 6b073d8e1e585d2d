"""The axes; a further one is an entry here."""

from collections.abc import Mapping

from fpt_ray.bench.grow.growth import Axis
from fpt_ray.bench.grow.images import measure_ratio, measure_resolution
from fpt_ray.bench.grow.stores import measure_rows, measure_shards
from fpt_ray.bench.grow.studies import measure_trials

AXES: Mapping[str, Axis] = {
    "trials": Axis(title="trials in a study", sizes=(10, 30, 100, 300, 1000, 3000), measure=measure_trials),
    "rows": Axis(title="rows in a store", sizes=(100, 1000, 10_000, 30_000, 100_000, 1_000_000), measure=measure_rows),
    "shards": Axis(title="shards of 8,192 rows", sizes=(1, 4, 16, 64, 256, 1024), measure=measure_shards),
    "resolution": Axis(
        title="side of an image in pixels", sizes=(64, 128, 192, 256, 384, 512, 768, 1024), measure=measure_resolution
    ),
    "ratio": Axis(title="tokens kept, in percent", sizes=(5, 10, 20, 40, 60, 80, 100), measure=measure_ratio),
}
