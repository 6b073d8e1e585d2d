"""The methods that have evidence, and evidence that is made by hand."""

import dataclasses

import numpy as np

from fpt_ray.predict.evidence.attention import Evidence

METHODS = ("fpt+", "fpt", "probe")


def made_evidence(**changes):
    """Of 4 x 4 patches and a class token: one layer, two heads that keep three tokens each, one seed, one prompt."""
    evidence = Evidence(
        blocks=(8,),
        num_tokens=17,
        num_prefix=1,
        tokens=np.array([[[0, 1, 6], [6, 11, 16]]]),
        attention=np.array([0.5, 0.3, 0.2, 0.6, 0.1, 0.3], np.float32).reshape(1, 1, 2, 1, 3),
        to_prompts=None,
        uniform_to_prompts=None,
        said=np.array([[0.3, 0.7]], np.float32),
        probabilities=np.array([0.3, 0.7]),
        class_token=np.ones(2, np.float32),
    )
    return dataclasses.replace(evidence, **changes)
