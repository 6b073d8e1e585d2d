"""Every form of small tables, letter by letter."""

import json

import pytest

from fpt_ray.display.typesetting import Cell, Column, Table, ranks, text_column, typeset

# --- numbers --------------------------------------------------------------------------------------------------

SMALL = Table(
    title="Table 0: study a_b",
    notes=["Images: 100 % drawn."],
    heading="# Prompt",
    labels=["4", "16", "LoRA_x"],
    columns=[
        Column(title="Mem. (MB)", cells=[Cell(value=720.4), Cell(value=736.0), Cell(failed=True)], digits=0),
        Column(
            title="AUC",
            cells=[Cell(value=85.94, std=0.5), Cell(value=87.1249, std=1.25), Cell(failed=True)],
            ranked=True,
        ),
        Column(title="AUC", cells=[Cell(value=85.944), Cell(value=85.94), Cell()], ranked=True, of_paper=True),
    ],
)
TEXT = """\
Table 0: study a_b
Images: 100 % drawn.
*best*, _second_ of a column.

# Prompt  Mem. (MB)             AUC    paper
4               720  _85.94 ± 0.50_  *85.94*
16              736  *87.12 ± 1.25*  *85.94*
LoRA_x            /              /        -"""
MARKDOWN = """\
Table 0: study a_b

Images: 100 % drawn.

**best**, <u>second</u> of a column.

| # Prompt | Mem. (MB) |                 AUC |     paper |
| -------- | --------: | ------------------: | --------: |
| 4        |       720 | <u>85.94 ± 0.50</u> | **85.94** |
| 16       |       736 |    **87.12 ± 1.25** | **85.94** |
| LoRA_x   |         / |                   / |         - |"""
CSV = """\
# Prompt,Mem. (MB),AUC,AUC std,paper AUC
4,720.4,85.94,0.5,85.944
16,736.0,87.1249,1.25,85.94
LoRA_x,/,/,,"""
LATEX = r"""% Table 0: study a_b
% Images: 100 % drawn.
% Bold: best, underlined: second of a column.
\begin{tabular}{lrrr}
\hline
\# Prompt & Mem. (MB) & AUC & paper \\
\hline
4 & 720 & \underline{85.94 $\pm$ 0.50} & \textbf{85.94} \\
16 & 736 & \textbf{87.12 $\pm$ 1.25} & \textbf{85.94} \\
LoRA\_x & / & / & - \\
\hline
\end{tabular}"""


@pytest.mark.parametrize(("form", "expected"), [("text", TEXT), ("markdown", MARKDOWN), ("csv", CSV), ("latex", LATEX)])
def test_a_small_table_letter_by_letter(form, expected):
    assert typeset(SMALL, form) == expected


def test_json_holds_what_csv_holds():
    rows = json.loads(typeset(SMALL, "json"))
    assert rows[0] == {"# Prompt": "4", "Mem. (MB)": 720.4, "AUC": 85.94, "AUC std": 0.5, "paper AUC": 85.944}
    assert rows[2] == {"# Prompt": "LoRA_x", "Mem. (MB)": "/", "AUC": "/", "AUC std": None, "paper AUC": None}


def test_ranks():
    def of(*values, ranked=True):
        return ranks(Column(title="", cells=[Cell(value=value) for value in values], ranked=ranked))

    assert of(1.0, 3.0, 2.0, None) == [None, "best", "second", None]
    assert of(3.001, 3.004, 2.0, 1.0) == ["best", "best", "second", None]  # print alike
    assert of(1.0) == of(1.0, None)[:1] == [None]
    assert of(1.0, 2.0, ranked=False) == [None, None]
    of_validation = Column(title="", cells=[Cell(value=value, of_validation=True) for value in (1, 2)], ranked=True)
    assert ranks(of_validation) == ["second", "best"]


# --- texts ----------------------------------------------------------------------------------------------------

COSTS = Table(
    columns=[
        text_column("row", ["4", "16"]),
        Column(title="AUC", name="val_auc", cells=[Cell(text="85.94", plain=0.859431), Cell(text="-")]),
        text_column("verdict", ["best", "not told_apart"], left=True),
    ],
    footnotes=[
        "* 16: it is 100 % wider than the page, but a footnote keeps its line whatever its length may be, so that",
        "a * at its beginning is found.",
    ],
)
COSTS_TEXT = """\
row    AUC  verdict
  4  85.94  best
 16      -  not told_apart

* 16: it is 100 % wider than the page, but a footnote keeps its line whatever its length may be, so that
a * at its beginning is found."""
COSTS_MARKDOWN = """\
| row |   AUC | verdict        |
| --: | ----: | -------------- |
|   4 | 85.94 | best           |
|  16 |     - | not told_apart |

* 16: it is 100 % wider than the page, but a footnote keeps its line whatever its length may be, so that

a * at its beginning is found."""
COSTS_CSV = """\
row,val_auc,verdict
4,0.859431,best
16,,not told_apart"""
COSTS_LATEX = r"""\begin{tabular}{rrl}
\hline
row & AUC & verdict \\
\hline
4 & 85.94 & best \\
16 & - & not told\_apart \\
\hline
\end{tabular}
% * 16: it is 100 % wider than the page, but a footnote keeps its line whatever its length may be, so that
% a * at its beginning is found."""


@pytest.mark.parametrize(
    ("form", "expected"),
    [("text", COSTS_TEXT), ("markdown", COSTS_MARKDOWN), ("csv", COSTS_CSV), ("latex", COSTS_LATEX)],
)
def test_a_table_of_texts_without_labels_letter_by_letter(form, expected):
    assert typeset(COSTS, form) == expected


def test_json_holds_what_a_text_stands_for_in_full():
    rows = [
        {"row": "4", "val_auc": 0.859431, "verdict": "best"},
        {"row": "16", "val_auc": None, "verdict": "not told_apart"},
    ]
    assert json.loads(typeset(COSTS, "json")) == rows


def test_a_list_has_no_line_of_titles():
    listed = Table(title="Spent", labels=["training", "  of it waiting"], columns=[text_column("", ["9 s", "10 %"])])
    assert typeset(listed, "text") == "Spent\n\ntraining          9 s\n  of it waiting  10 %"


@pytest.mark.parametrize(
    ("form", "expected"),
    [("text", "a\nb\n\nc"), ("markdown", "a\n\nb\n\nc"), ("latex", "% a\n% b\n% c"), ("csv", ""), ("json", "[]")],
)
def test_a_table_without_rows_is_what_is_said_of_it(form, expected):
    assert typeset(Table(title="a", notes=["b"], footnotes=["c"]), form) == expected
