"""The package installed from its wheel, with no checkout beside it, compared with what the checkout has."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fpt_ray.__main__ import COMMANDS
from fpt_ray.config.space_files import known_spaces

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command, cwd, **environment):
    """What a command prints, run where no checkout is on Python's path."""
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env={**bare, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the programs of an empty environment that has the wheel, and all else from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT, **paths)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    uv = Path(sys.executable).with_name("uv")
    venv = folder / "venv"
    run(
        uv, "pip", "install", "--offline", "--no-deps", "--python", str(venv / "bin" / "python"), str(wheel), cwd=folder
    )
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin"


def test_the_installed_package_is_the_wheels(installed, tmp_path):
    file = run(installed / "python", "-c", "import fpt_ray; print(fpt_ray.__file__)", cwd=tmp_path)
    assert Path(file.strip()).is_relative_to(installed.parent)
    assert Path(file.strip()).with_name("py.typed").is_file()
    assert Path(file.strip()).with_name("serve").joinpath("page", "page.js").is_file()


def test_its_front_door_lists_the_commands(installed, tmp_path):
    text = run(installed / "fpt-ray", cwd=tmp_path)
    assert text.startswith("usage: fpt-ray COMMAND")
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines() if line.startswith("  ")}
    assert tuple(listed) == COMMANDS
    assert all(len(caption) > 20 for caption in listed.values())


def test_its_search_spaces_are_found_by_name(installed, tmp_path):
    text = run(installed / "fpt-ray", "tune", "--list_spaces", cwd=tmp_path)
    assert [line.split()[0] for line in text.splitlines()] == list(known_spaces())
    assert "The four axes of the paper's section 4.6" in text
    costs = json.loads(run(installed / "fpt-ray", "cost", "--space", "smoke", "--json", cwd=tmp_path))
    assert len(costs) > 1


def test_it_predicts_a_cost_beside_the_papers_numbers(installed, tmp_path):
    options = ("--method", "lora", "--backbone.name", "vit_tiny_patch16_224", "--features.resolution", "96", "--json")
    (cost,) = json.loads(run(installed / "fpt-ray", "cost", *options, cwd=tmp_path))
    assert cost["learnable_parameters"] > 0
    code = "from fpt_ray.paper.numbers import numbers; print(len(numbers()))"
    assert int(run(installed / "python", "-c", code, cwd=tmp_path)) > 3


def test_it_has_the_template_of_a_studys_page(installed, tmp_path):
    code = "from fpt_ray.report.page.rendering import template; print(template().name)"
    assert run(installed / "python", "-c", code, cwd=tmp_path).strip() == "page.html.jinja"
