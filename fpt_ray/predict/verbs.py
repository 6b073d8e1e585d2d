"""What else is done with a bundle than to apply it: it is handed on. Verbs of ``fpt-ray predict``."""

from typing import Literal

import tyro


def pack(
    model: tyro.conf.Positional[str],
    out: str,
    workdir: str = ".",
    backbone: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Write a copy of a bundle in which the weights of its LPM lie, too: it needs no network and no other file.

    Args:
        model: The bundle, as predict --model takes it.
        out: The folder of the copy. It is as large as the LPM and a few MB (ViT-S 87 MB, ViT-B 343 MB, ViT-L 1.2 GB).
        workdir: The working directory of the study.
        backbone: The file of the LPM's weights. Default: where they were in training.
        tracking_uri: MLflow's tracking server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db in workdir.
    """
    from fpt_ray.predict.finding import bundle_named
    from fpt_ray.predict.packing import write_packed

    print(write_packed(bundle_named(model, workdir, tracking_uri), out, backbone))


def export(
    model: tyro.conf.Positional[str],
    onnx: str,
    precision: Literal["float32", "float16"] = "float32",
    workdir: str = ".",
    backbone: str | None = None,
    tracking_uri: str | None = None,
) -> None:
    """Write a bundle as an ONNX file: squared images in, calibrated probabilities out, the LPM and all seeds inside.

    The input `images` is uint8, N x R x R x 3 (any N; R is the LPM's resolution), the output `probabilities` N x C.
    The file's metadata say the classes and how an image is squared. onnxruntime runs it once, beside the bundle.

    Args:
        model: The bundle, as predict --model takes it.
        onnx: The file to write. Weights of more than 2 GB lie beside it in FILE.data, which belongs to it.
        precision: The LPM's arithmetic in the file. In float16 the file has half the size.
        workdir: The working directory of the study.
        backbone: The file of the LPM's weights. Default: where they were in training.
        tracking_uri: MLflow's tracking server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db in workdir.
    """
    from fpt_ray.predict.finding import bundle_named
    from fpt_ray.predict.onnx_file import write_onnx
    from fpt_ray.train.bundle import read_bundle, with_backbone_at

    bundle = with_backbone_at(read_bundle(bundle_named(model, workdir, tracking_uri)), backbone)
    print(write_onnx(bundle, onnx, precision))


def log(
    study: tyro.conf.Positional[str],
    register: str | None = None,
    workdir: str = ".",
    tracking_uri: str | None = None,
) -> None:
    """Log the bundles of a study to MLflow as models, those that it lacks. `tune` does so at its end.

    Args:
        study: The name of the study.
        register: Register the best trial's model under this name, with the alias champion.
        workdir: The working directory of the study.
        tracking_uri: MLflow's tracking server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db in workdir.
    """
    from fpt_ray.predict.logged import log_study
    from fpt_ray.storage.files import absolute
    from fpt_ray.tracking import server

    uri = server.tracking_uri(tracking_uri, workdir)
    print("\n".join(log_study(f"{absolute(workdir)}/studies/{study}", uri, register)))


VERBS = {"export": export, "log": log, "pack": pack}
