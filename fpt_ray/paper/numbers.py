"""The paper's tables and figures as numbers, to stand beside ours."""

import json
from collections.abc import Hashable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

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
RUNGS = {
    "Side network alone": "side_only",
    "+ MLP transfer": "plus_mlp",
    "+ Fusion modules": "fusion_modules",
    "+ Asymmetric input": None,
    "+ Token selection": None,
    "+ Preloading": "all",
}
"""Bars of Figure 7 in their order, with the keys of those whose numbers the text gives."""


@cache
def numbers() -> dict[str, Any]:
    """The paper's tables and figures, defaults, datasets. AUC x 100, MB as nvidia-smi prints them."""
    return json.loads(files("fpt_ray.paper").joinpath("numbers.json").read_text(encoding="utf-8"))


def table1(weights: Literal["supervised", "dino"]) -> list[dict[str, Any]]:
    """Table 1's rows for these weights of the LPM."""
    return numbers()["table1"][weights]


def authors_learning_rate(data_set: str) -> float | None:
    """With which the authors' code trains FPT+ on a data set of the paper's; None: it is none of these."""
    rates = {letters(name): one["authors_learning_rate"] for name, one in numbers()["datasets"].items()}
    return rates.get(letters(data_set))


def letters(name: str) -> str:
    """A data set's name without what people write differently: case, blanks and signs."""
    return "".join(filter(str.isalnum, name)).casefold()


def rows_of(name: str) -> dict[Hashable, Mapping[str, Any]]:
    """{what a row is of: its printed numbers} of any table or figure but Table 2.

    Rows are of a method by its printed name, a rung, or a value of what the table goes over. Numbers have the names of
    numbers.json: average_auc, params_percent, memory_mb, ppe, pme; in Table 1 also auc, {data set: mean and std}.
    """
    if name in ("table1", "table1_dino", "figure1"):
        return {row["method"]: row for row in table1("dino" if name == "table1_dino" else "supervised")}
    if name == "figure7":
        return {rung: numbers()[name][key] for rung, key in RUNGS.items() if key}
    over = {"table3": "side_resolution", "table4": "num_prompts", "figure6": "side_depth", "figure8": "token_ratio"}
    return {row[over[name]]: row for row in numbers()[name]}


def table2() -> dict[tuple[str, int], dict[str, float | None]]:
    """{(method by its name in Table 1, resolution): memory_mb and average_auc}; None: out of memory."""
    found = {}
    for method, row in numbers()["table2"].items():
        name = METHOD_NAMES["full_fine_tuning"] if method == "Full FT" else method
        for size in row["memory_mb"]:
            found[name, int(size)] = {field: row[field][size] for field in ("memory_mb", "average_auc")}
    return found
