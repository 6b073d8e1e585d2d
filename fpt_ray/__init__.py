"""FPT+ as a system: preload once, search many side networks.

What is named here is imported when it is first asked for, so that ``import fpt_ray`` takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fpt_ray.config.augmentation import AugmentConfig
    from fpt_ray.config.space import SearchSpace
    from fpt_ray.config.space_yaml import load_space
    from fpt_ray.config.trial import (
        BackboneConfig,
        FeaturesConfig,
        PetlConfig,
        SideConfig,
        TrainingConfig,
        TrialConfig,
    )
    from fpt_ray.errors import ConfigError
    from fpt_ray.features.joining import Features
    from fpt_ray.features.store import Store, open_store
    from fpt_ray.predict.classifier import load
    from fpt_ray.predict.evidence.attention import evidence_of
    from fpt_ray.preload.pipeline import preload as preload_features
    from fpt_ray.report.result import StudyResult
    from fpt_ray.train.trial import TrialResult, train_trial
    from fpt_ray.tune.options import StudyOptions
    from fpt_ray.tune.study import run_study

__version__ = "0.1.0"
__all__ = [
    "AugmentConfig",
    "BackboneConfig",
    "ConfigError",
    "Features",
    "FeaturesConfig",
    "PetlConfig",
    "SearchSpace",
    "SideConfig",
    "Store",
    "StudyOptions",
    "StudyResult",
    "TrainingConfig",
    "TrialConfig",
    "TrialResult",
    "evidence_of",
    "load",
    "load_space",
    "open_store",
    "preload_features",
    "run_study",
    "train_trial",
]
_PLACES = {
    "AugmentConfig": "config.augmentation",
    "BackboneConfig": "config.trial",
    "ConfigError": "errors",
    "Features": "features.joining",
    "FeaturesConfig": "config.trial",
    "PetlConfig": "config.trial",
    "SearchSpace": "config.space",
    "SideConfig": "config.trial",
    "Store": "features.store",
    "StudyOptions": "tune.options",
    "StudyResult": "report.result",
    "TrainingConfig": "config.trial",
    "TrialConfig": "config.trial",
    "TrialResult": "train.trial",
    "evidence_of": "predict.evidence.attention",
    "load": "predict.classifier",
    "load_space": "config.space_yaml",
    "open_store": "features.store",
    "preload_features": "preload.pipeline:preload",
    "run_study": "tune.study",
    "train_trial": "train.trial",
}
"""{name: module below this package[:the name there]}"""


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, there = _PLACES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), there or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
