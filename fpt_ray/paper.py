"""The paper's tables and figures as numbers, to stand beside ours."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

METHOD_NAMES = {
    "full_fine_tuning": "Full fine-tuning",
    "linear_probing": "Linear probing",
    "prompt_tuning": "Prompt-tuning",
    "attention_tuning": "Attention-tuning",
    "adapter": "Adapter",
    "bitfit": "BitFit",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "fpt": "FPT",
    "fpt+": "FPT+",
}
"""Rows of Table 1, by the method's name in a trial, in the paper's order."""
FPT_AS_RUN = {"method": "fpt", "side.depth": 12, "side.resolution": 224}
"""FPT's own settings, where they are not FPT+'s: all layers of the LPM, a larger side input."""


@cache
def numbers() -> dict[str, Any]:
    """The paper's tables: table1 to table4, figure7, defaults, datasets. AUC x 100, MB as nvidia-smi prints them."""
    return json.loads(files("fpt_ray").joinpath("paper.json").read_text(encoding="utf-8"))
