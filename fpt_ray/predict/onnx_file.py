"""A bundle as an ONNX file, for programs without Python or PyTorch: squared images in, calibrated probabilities out."""

import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from fpt_ray.errors import ConfigError
from fpt_ray.predict.classifier import Answers, classifier_of
from fpt_ray.predict.onnx_network import Whole
from fpt_ray.storage.files import local_path
from fpt_ray.train.bundle import Bundle

Precision = Literal["float32", "float16"]
INPUT, OUTPUT = "images", "probabilities"
_LIKE = {"float32": 1e-3, "float16": 1e-2}
"""How far probabilities may be from those of the bundle in float32."""


def write_onnx(bundle: Bundle, out: str, precision: Precision = "float32") -> str:
    """Writes a bundle's ONNX file and compares what it says with the bundle; what came of it, in a line.

    Its one input ``images`` is uint8, N x R x R x 3: any number of images, squared to the bundle's resolution R. Its
    one output ``probabilities`` is float32, N x C: calibrated, the mean over the seeds; of regression the value. The
    LPM is in it. Weights of more than 2 GB lie in a second file beside it, OUT.data, which belongs to it.

    Args:
        bundle: what is written.
        out: a local file, which ends in .onnx.
        precision: of the LPM, or of the method's whole network where the LPM is part of that.

    Raises:
        ConfigError: a library is missing, the file is there, the LPM cannot be had, the bundle's method has no ONNX
            form, or the file says something else than the bundle.
    """
    final = _checked(out)
    reference = classifier_of(_in_float32(bundle), torch.device("cpu"))
    images, more = _made_images(bundle.spec.resolution), ""
    program = _exported(Whole(reference, getattr(torch, precision)).eval(), images[:2], bundle)
    program.model.metadata_props.update(_said(bundle))
    final.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=final.parent, prefix=".onnx-") as folder:
        program.save(str(Path(folder, final.name)))
        del program
        found = _run(Path(folder, final.name), images)
        difference = _checked_difference(found, reference.answers(images), precision)
        files = sorted(Path(folder).iterdir(), key=lambda file: file.name == final.name)  # the file itself last
        size = sum(file.stat().st_size for file in files) / 1e6
        for file in files:
            os.replace(file, final.with_name(file.name))
    if "bfloat16" in (bundle.spec.precision, bundle.trial.training.precision):
        own = classifier_of(bundle, torch.device("cpu")).answers(images)
        more = f", {_difference(found, own):.1e} from its own bfloat16"
    names, side = " and ".join(str(final.with_name(file.name)) for file in reversed(files)), bundle.spec.resolution
    return (
        f"written to {names} ({size:,.0f} MB): {INPUT} uint8 N x {side} x {side} x 3 in, {OUTPUT} N x {found.shape[1]} "
        f"out; of made images, at most {difference:.1e} from the bundle in float32{more}"
    )


def _in_float32(bundle: Bundle) -> Bundle:
    """A bundle whose LPM and networks compute in float32, which every machine has."""
    training = dataclasses.replace(bundle.trial.training, precision="float32")
    return dataclasses.replace(
        bundle,
        trial=dataclasses.replace(bundle.trial, training=training),
        spec=dataclasses.replace(bundle.spec, precision="float32"),
    )


def _checked(out: str) -> Path:
    try:
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise ConfigError(f"onnx: {error.name} is not installed; pip install 'fpt_ray[onnx]'") from None
    del onnxruntime, onnxscript
    final = local_path(out)
    if final is None or final.suffix != ".onnx":
        raise ConfigError(f"onnx is {out}; give a local file that ends in .onnx")
    if final.exists():
        raise ConfigError(f"onnx: {out} is there already; remove it, or give another name")
    return final


def _exported(network: Whole, images: UInt8[np.ndarray, "N R R 3"], bundle: Bundle) -> Any:
    try:
        with _quiet(), torch.no_grad():
            batch = {0: torch.export.Dim("batch")}
            graph = torch.export.export(network, (torch.from_numpy(images),), dynamic_shapes=(batch,), strict=False)
            return torch.onnx.export(graph, input_names=[INPUT], output_names=[OUTPUT], verbose=False)
    except Exception as error:  # whatever the exporter raises where an operation has no ONNX form
        raise ConfigError(
            f"method is {bundle.trial.method}, which cannot be written as ONNX with {bundle.trial.backbone.name} "
            f"({type(error).__name__}); use the bundle itself"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _made_images(resolution: int) -> UInt8[np.ndarray, "3 R R 3"]:
    return np.random.default_rng(0).integers(0, 256, (3, resolution, resolution, 3), np.uint8)


def _said(bundle: Bundle) -> dict[str, str]:
    """What a program has to know that uses the file: texts, some of them JSON."""
    return {
        "task": bundle.target.task,
        "classes": json.dumps(bundle.target.classes),
        "preparation": json.dumps(dataclasses.asdict(bundle.spec.preparation)),
        "operating_points": json.dumps([dataclasses.asdict(point) for point in bundle.operating_points]),
        "note": str(bundle.data["note"]),
        "identity": bundle.identity,
    }


def _run(file: Path, images: UInt8[np.ndarray, "N R R 3"]) -> Float[np.ndarray, "N C"]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: images})[0])


def _difference(found: Float[np.ndarray, "N C"], answers: Answers) -> float:
    """The largest difference from answers; of values, as a share of the largest."""
    expected = answers.probabilities
    scale = np.abs(expected).max() if answers.target.task == "regression" else 1.0
    return float(np.abs(found - expected).max() / scale)


def _checked_difference(found: Float[np.ndarray, "N C"], answers: Answers, precision: Precision) -> float:
    """The same; ConfigError if it is more than arithmetic can explain."""
    difference = _difference(found, answers)
    if not difference <= _LIKE[precision]:
        raise ConfigError(
            f"onnx: the file differs from the bundle by {difference:.1e} where {_LIKE[precision]:.0e} was to be "
            "expected, and is not kept; give float32 as precision, or use the bundle itself"
        )
    return difference
