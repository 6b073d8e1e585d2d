"""The order of the floors: a room imports only rooms that stand lower, and core rooms start without large libraries.

Compared with what the sources import, read as syntax trees, and with ``sys.modules`` of a fresh interpreter.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fpt_ray"
FLOORS = {
    1: "errors",
    2: "config storage metrics display",
    3: "cluster images models paper tracking search",
    4: "features report authors datasets demo",
    5: "preload cost reading",
    6: "train",
    7: "predict",
    8: "tune",
    9: "serve bench",
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms.split()}
DOORS = {"__init__", "__main__"}  # of the package: they open any room


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of everything of the package that a file imports, in functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name.startswith("fpt_ray."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fpt_ray":
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def breaches(package: Path) -> list[str]:
    """A line for each import of a room that does not stand lower."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        if room in DOORS:
            continue
        for line, module in imports(path):
            parts = module.split(".")[1:]
            other = parts[0]
            if other == room or other not in FLOOR:
                continue  # the version and the API are of the package itself
            where = f"fpt_ray/{inside}:{line}: imports {module}"
            if FLOOR[other] >= FLOOR[room]:
                found.append(
                    f"{where}, but {other} is on floor {FLOOR[other]} and {room} on {FLOOR[room]}; move what both need "
                    "to a lower room, or hand it over as an argument"
                )
            elif parts[1:2] == ["command"] and room != "bench":
                found.append(f"{where}; a command is for people: import what it calls")
    return found


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if not path.name.startswith((".", "__"))}
    assert {room for room in rooms if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").exists()} == set(FLOOR)


def test_a_rooms_own_file_holds_its_caption_alone():
    for path in PACKAGE.glob("*/__init__.py"):
        (caption,) = ast.parse(path.read_text()).body
        assert isinstance(caption, ast.Expr)
        assert isinstance(caption.value, ast.Constant)


def test_a_room_imports_only_lower_ones():
    assert breaches(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("config/trial.py", "from fpt_ray.models.backbone import x", "config/trial.py:1: imports fpt_ray.models"),
        (
            "search/queue.py",
            "def f():\n    import fpt_ray.tracking.runs",
            "queue.py:2: imports fpt_ray.tracking.runs, but",
        ),
        ("cluster.py", "from fpt_ray import tune", "cluster.py:1: imports fpt_ray.tune, but tune is on floor"),
        ("tune/log.py", "from fpt_ray.report.command import report", "a command is for people"),
    ],
)
def test_a_breach_is_named_with_file_line_and_remedy(tmp_path, path, text, said):
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    (found,) = breaches(tmp_path)
    assert said in found


def modules(*rooms: str) -> str:
    """The modules of rooms but their doors, which parse a command line."""
    files = [file for room in rooms for file in sorted((PACKAGE / room).glob("*.py"))]
    named = [
        f"{file.parent.name}.{file.stem}" for file in files if file.stem not in ("__init__", "__main__", "command")
    ]
    return " ".join(named)


CORE = f"errors display.terminal {modules('config', 'metrics', 'images', 'models', 'cost')} train.loop paper.numbers"
STORE = f"storage.files storage.s3 {modules('features')} train.checkpoint train.seeds train.leaving predict.classifier"
STORE += " predict.evidence.writing"
MEASURED = "bench.stages.gpu bench.stages.epoch"
TRACKING = f"{modules('report')} tracking.provenance tracking.runs tracking.server"
TABLES = f"{modules('display', 'paper')} report.ledger bench.scaling"
PROGRAM = """
import importlib, sys
forbidden, modules = sys.argv[1].split(), sys.argv[2].split()
for name in modules:
    importlib.import_module(f"fpt_ray.{name}")
    found = [other for other in forbidden if other in sys.modules]
    if found:
        sys.exit(f"fpt_ray.{name} imports {found}")
"""


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        (CORE, "ray mlflow boto3 optuna tyro"),
        (f"{STORE} {MEASURED}", "ray mlflow boto3 optuna tyro"),
        (TRACKING, "ray boto3 optuna tyro torch"),
        (TABLES, "ray mlflow boto3 optuna tyro torch"),
    ],
    ids=["core", "store", "tracking", "tables"],
)
def test_a_room_starts_without_what_is_above_it(modules, forbidden):
    done = subprocess.run([sys.executable, "-c", PROGRAM, forbidden, modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
