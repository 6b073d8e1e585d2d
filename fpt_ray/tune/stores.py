"""The stores of a study: what is there is opened; of several, each other is made when a trial first asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fpt_ray.config.fitting import check_batches, fitted_space
from fpt_ray.config.space import SearchSpace, StoreNeed
from fpt_ray.config.trial import TrialConfig
from fpt_ray.cost.prediction import preload_flops
from fpt_ray.datasets.checking import Inspection, inspected
from fpt_ray.display.terminal import say
from fpt_ray.features.joining import Features, join, missing, planned
from fpt_ray.features.serving import Stores, store_for
from fpt_ray.features.spec import StoreSpec, bytes_per_row
from fpt_ray.features.store import latest_generation, open_store
from fpt_ray.images.table import ImageTable, read_images
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.methods import check_trial
from fpt_ray.models.weights import known_weights
from fpt_ray.preload.pipeline import (
    asked_spec,
    frozen_lpm,
    preload_table,
    preparations,
    report_table,
    store_uri,
)
from fpt_ray.tune.options import StudyOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Supply:
    """What makes the stores of a study that are only planned."""

    space: SearchSpace
    """Fitted to what is to be learnt of the images."""
    table: ImageTable
    workdir: str

    def made_for(self, trial: TrialConfig, stores: Stores) -> Stores:
        """The same stores, where the one that serves a trial is made. It takes every core there is.

        Raises:
            ConfigError: it cannot be made.
        """
        asked = store_for(trial, stores)
        if asked.is_made:
            return stores
        need = _needs(self.space, stores)[asked.spec]
        made = preload_table(Inspection(table=self.table), need, frozen_lpm(need), self.workdir, stores.hardware)
        found = replace(stores, stores=tuple(made if store.uri == made.uri else store for store in stores))
        tell_prices(self.space, found, before=stores)
        return found


def open_stores(options: StudyOptions, space: SearchSpace, workdir: str, hardware: Hardware) -> tuple[Supply, Stores]:
    """Where the images are in the feature stores of the space: those given, or the working directory's.

    A store that is the only one is made here, after the space was fitted to the images' task. ``hardware`` is of the
    workers that preload.

    Raises:
        ConfigError: a score or a loss of the space is not of the task; the images, weights or stores cannot be used.
    """
    images = read_images(options.images, options)
    space = fitted_space(space, images.target)
    weights, needs = known_weights(space.backbones(), str(Path.cwd())), space.stores()
    alone = len(needs) == 1 and not options.features
    # Kept until a trial asks for another store, decoded images would fill the memory that its features are read from.
    inspection = inspected(images, workdir, preparations(needs), kept=alone, allow=options.allow)
    report_table(table := inspection.table)
    check_batches(space, len(table.of("train")))
    stores = Stores(stores=(), weights=weights, hardware=hardware)
    found = {}
    if options.features:
        found = {uri: join(open_store(uri), table) for uri in options.features}
    else:
        for spec, need in _needs(space, stores).items():
            uri = store_uri(workdir, spec)
            if alone or _is_there(uri, table):
                found[uri] = preload_table(inspection, need, frozen_lpm(need), workdir, hardware)
            else:
                for trial in need.trials():
                    check_trial(trial)
                found[uri] = planned(uri, spec, table)
    stores = replace(stores, stores=tuple(found.values()))
    for trial in (trial for need in needs for trial in need.trials()):
        store_for(trial, stores)
    tell_prices(space, stores)
    return Supply(space=space, table=table, workdir=workdir), stores


def _needs(space: SearchSpace, stores: Stores) -> Mapping[StoreSpec, StoreNeed]:
    """{what a store of the space is: what its trials need}."""
    return {asked_spec(need, stores.weights[need.trial.backbone], stores.hardware): need for need in space.stores()}


def _is_there(uri: str, table: ImageTable) -> bool:
    """Whether a store holds every image."""
    return latest_generation(uri) > 0 and not len(missing(table, open_store(uri)))


# --- what they will take ------------------------------------------------------------------------------------------


def tell_prices(space: SearchSpace, stores: Stores, before: Stores | None = None) -> None:
    """Says what each store will take that is only planned; ``before``: of those alone whose seconds were unknown then.

    Seconds are added up over the actors that run the LPM, as in the ledger.
    """
    needs = _needs(space, stores)
    for store in stores:
        timed = _timed(store, stores)
        if store.is_made or (before is not None and (timed is None or _timed(store, before))):
            continue
        size = len(store) * bytes_per_row(store.spec)
        text = f"store {store.spec.name}: {len(store)} images, {size / 1e9:.2f} GB"
        if timed is not None and timed.spec in needs:
            work = preload_flops(needs[store.spec]) / preload_flops(needs[timed.spec])
            text += f", about {work * timed.preload_seconds / len(timed) * len(store):,.0f} s of preloading"
        say(f"{text}; made when a trial first asks for it")


def _timed(store: Features, stores: Stores) -> Features | None:
    """A store that the same LPM was timed for."""
    digest = store.spec.weights_digest
    same = (one for one in stores if one.is_made and one.spec.blocks and one.spec.weights_digest == digest)
    return next((one for one in same if one.preload_seconds), None)
