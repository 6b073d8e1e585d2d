"""Which store serves a trial: whatever of a store a trial's numbers depend on is asked for, one field at a time."""

import dataclasses

import numpy as np
import pytest

from fpt_ray.config.identity import difference, digest_of
from fpt_ray.config.space import need_of
from fpt_ray.config.space_yaml import parse_space
from fpt_ray.config.trial import BackboneConfig, TrialConfig, override
from fpt_ray.errors import ConfigError
from fpt_ray.features.joining import Features, planned
from fpt_ray.features.serving import Stores, store_for, study_identity, trial_identity, trial_slice
from fpt_ray.features.spec import everything, store_spec
from fpt_ray.models.hardware import Hardware
from fpt_ray.models.weights import RANDOM_WEIGHTS, known_weights
from fpt_ray.reading import places
from fpt_ray.reading.host_disk import HostDisk
from tests.conftest import SMALL
from tests.stores import cut_of, make_spec, make_store, make_table

TRIAL = override(
    TrialConfig(),
    {"backbone.name": SMALL, "backbone.weights": "a.safetensors", "features.resolution": 96, "side.depth": 2},
)
CPU = Hardware(device="cpu", name="cpu", has_bfloat16=True)
GPU = Hardware(device="cuda", name="a card", has_bfloat16=True, memory_bytes=2**34)
WEIGHTS = {dataclasses.replace(TRIAL.backbone, weights=f"{name}.safetensors"): name for name in "ab"}


def store_of(trial=TRIAL, uri="s", **spec):
    images, fold = spec.pop("images", "i"), spec.pop("fold", "")
    found = dataclasses.replace(store_spec(need_of(trial), weights_digest="a", precision="float32"), **spec)
    return Features(
        uri=uri,
        spec=found,
        shards=(),
        classes=("x", "y"),
        splits={},
        table_digest=images,
        data_note="",
        skipped=(),
        fold=fold,
    )


def serve(trial, *stores):
    return store_for(trial, Stores(stores=stores, weights=WEIGHTS, hardware=CPU)).uri


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("backbone.weights", "b.safetensors"),
        ("features.precision", "bfloat16"),
        ("features.mean", (0.1, 0.2, 0.3)),
        ("features.std", (0.1, 0.2, 0.3)),
        ("features.resolution", 112),
        ("features.intensity", "percentile"),
        ("features.window", (40.0, 400.0)),
        ("features.percentiles", (1.0, 99.0)),
        ("features.aspect", "pad"),
        ("features.crop_black", 10),
        ("features.srgb", True),
        ("features.reduced_scale", True),
        ("features.importance", "class_token"),
        ("features.dtype", "bfloat16"),
        ("side.depth", 3),
        ("side.blocks", "0,11"),
        ("side.resolution", 160),
        ("features.token_ratio", 0.5),
    ],
)
def test_a_trial_is_not_served_by_a_store_that_differs_in(name, value):
    with pytest.raises(ConfigError, match=rf"no feature store serves this trial: .*{name}"):
        serve(override(TRIAL, {name: value}), store_of())


def test_each_of_two_weight_files_has_its_own_store():
    """A space that searched two would train every trial on the first store."""
    stores = store_of(uri="of a"), store_of(uri="of b", weights_digest="b")
    assert serve(TRIAL, *stores) == "of a"
    assert serve(override(TRIAL, {"backbone.weights": "b.safetensors"}), *stores) == "of b"


def test_a_wider_store_serves_and_the_first_of_several():
    wide = store_of(override(TRIAL, {"side.depth": 4, "features.token_ratio": 0.4}), uri="wide")
    assert serve(TRIAL, wide, store_of(uri="narrow")) == "wide"
    assert serve(override(TRIAL, {"side.depth": 4}), store_of(uri="narrow"), wide) == "wide"
    stores = [Stores(stores=(one,), weights=WEIGHTS, hardware=CPU) for one in (wide, store_of())]
    assert digest_of(trial_identity(TRIAL, stores[0])) == digest_of(trial_identity(TRIAL, stores[1]))


def test_two_stores_that_would_give_other_numbers_are_not_chosen_between():
    with pytest.raises(ConfigError, match="two feature stores serve this trial, and precision is 'float32' in s"):
        serve(TRIAL, store_of(), store_of(uri="t", precision="bfloat16"))
    explicit = override(TRIAL, {"features.precision": "bfloat16"})
    assert serve(explicit, store_of(), store_of(uri="t", precision="bfloat16")) == "t"


def test_a_planned_store_says_what_it_will_hold_and_where_nothing_lies(tmp_path):
    """What a trial costs and which question it answers are known before its store is made."""
    (made, _), table = make_store(tmp_path / "store", make_spec()), make_table(11)
    plan = planned("elsewhere", made.spec, table)
    assert (plan.is_made, made.is_made) == (False, True)
    assert len(plan) == len(made)
    cut = cut_of((3, 5), 7)
    assert plan.slice_bytes(cut, ("train", "val")) == made.slice_bytes(cut, ("train", "val"))
    for split, rows in made.splits.items():
        assert np.array_equal(plan.splits[split].hashes, rows.hashes)
        assert np.array_equal(plan.splits[split].labels, rows.labels)
        assert set(plan.splits[split].shards.tolist()) <= {-1}
    assert (plan.classes, plan.table_digest) == (made.classes, made.table_digest)


def test_images_alone_are_asked_for_their_normalisation():
    tuned = override(TRIAL, {"method": "lora", "features.resolution": 96})
    assert serve(tuned, store_of(tuned)) == "s"
    with pytest.raises(ConfigError, match=r"features\.std"):
        serve(override(tuned, {"features.std": (0.1, 0.2, 0.3)}), store_of(tuned))
    with pytest.raises(ConfigError, match=r"features\.aspect is 'crop', s holds 'squash'"):
        serve(override(tuned, {"features.aspect": "crop"}), store_of(tuned))


def test_a_trials_identity_is_of_configuration_weights_and_images_not_of_places():
    def digest(trial=TRIAL, weights=WEIGHTS, hardware=CPU, **spec):
        return digest_of(trial_identity(trial, Stores(stores=(store_of(**spec),), weights=weights, hardware=hardware)))

    moved = override(TRIAL, {"backbone.weights": "moved/a.safetensors"})
    assert digest(moved, {moved.backbone: "a"}, uri="elsewhere") == digest()
    others = [
        digest(override(TRIAL, {"training.learning_rate": 0.05})),
        digest(override(TRIAL, {"training.epochs": 3})),
        digest(weights={TRIAL.backbone: "b"}, weights_digest="b"),
        digest(images="another table"),
        digest(precision="bfloat16"),
        digest(hardware=GPU),
    ]
    assert len({digest(), *others}) == 7
    plain = override(TRIAL, {"training.precision": "float32"})
    assert digest(plain) == digest(plain, hardware=GPU) == digest()


def test_a_studys_identity_has_every_store_and_weight():
    space = parse_space(
        f"space: {{backbone.weights: {{choices: [a.safetensors, b.safetensors]}}}}\n"
        f"fixed: {{backbone.name: {SMALL}, features.resolution: 96, side.depth: 2}}"
    )
    stores = (store_of(), store_of(weights_digest="b", uri="t"))
    found = study_identity(space, Stores(stores=stores, weights=WEIGHTS, hardware=CPU))
    assert [found["store.weights_digest (0)"], found["store.weights_digest (1)"]] == ["a", "b"]
    assert {found["weights (0)"], found["weights (1)"]} == {"a", "b"}
    on_gpu = study_identity(space, Stores(stores=stores, weights=WEIGHTS, hardware=GPU))
    assert difference(found, on_gpu) == 'training.precision: auto is "float32" there, "bfloat16" is asked'
    others = {backbone: digest * 2 for backbone, digest in WEIGHTS.items()}
    other = tuple(dataclasses.replace(one, table_digest="j") for one in stores)
    assert study_identity(space, Stores(stores=other, weights=WEIGHTS, hardware=CPU)) != found
    with pytest.raises(ConfigError, match="no feature store serves"):
        study_identity(space, Stores(stores=stores, weights=others, hardware=CPU))
    of_folds = [
        study_identity(space, Stores(stores=tuple(store_of(**spec) for spec in specs), weights=WEIGHTS, hardware=CPU))
        for specs in (
            [{"fold": fold, "images": fold}, {"fold": fold, "images": fold, "weights_digest": "b", "uri": "t"}]
            for fold in ("1 of 5", "2 of 5")
        )
    ]
    assert difference(*of_folds) == 'store.fold (0) is "1 of 5" there, "2 of 5" is asked'


def test_known_weights_are_found_by_relative_and_absolute_paths(tmp_path):
    random = BackboneConfig(name=SMALL, weights=RANDOM_WEIGHTS)
    (digest,) = known_weights([random], str(tmp_path)).values()
    assert len(digest) == 64


@pytest.mark.parametrize(
    ("held", "served"),
    [
        (({"blocks": (8, 9)}, {"blocks": (10, 11)}), ["s0", "s1"]),
        (({"num_kept": 3}, {}), ["s0", "s1"]),
        (({}, {"num_kept": 3}), ["s0"]),
        (({"weights_digest": "b"}, {}), ["s1"]),
    ],
)
def test_what_is_read_of_several_stores_serves_each_trial_from_the_store_that_is_its(held, served, monkeypatch):
    """Stores of other blocks; one of fewer tokens, before and after a wide one; one of other weights."""
    space = parse_space(f"""
space:
  side.blocks: {{choices: ["8,9", "10,11"]}}
  features.token_ratio: {{choices: [0.05, 0.2]}}
  method: {{choices: [probe, knn]}}
fixed: {{backbone.name: {SMALL}, backbone.weights: a.safetensors, features.resolution: 96, side.depth: 2}}
objectives: {{val_auc: max}}
""")
    (need,) = space.stores()
    whole = dataclasses.replace(store_spec(need, weights_digest="a", precision="float32"), blocks=(8, 9, 10, 11))
    specs = {f"s{at}": dataclasses.replace(whole, **changes) for at, changes in enumerate(held)}
    stores = tuple(dataclasses.replace(store_of(uri=uri), spec=spec) for uri, spec in specs.items())
    monkeypatch.setattr(places, "prepare_reading", lambda _, cuts, *__: places.Reading(cuts=cuts))
    all_stores = Stores(stores=stores, weights=WEIGHTS, hardware=CPU)
    found = places.share_features(space, all_stores, "auto", HostDisk(folder="", kept=True)).cuts
    trials = [space.trial(proposal) for proposal in space.grid()]
    for trial in trials:
        store = store_for(trial, all_stores)
        cut = trial_slice(trial, store.spec)
        assert found[store.uri].with_other(cut) == found[store.uri]
        assert everything(store.spec).with_other(found[store.uri]) == everything(store.spec)
    assert list(found) == served
