"""The doors as one types them: what they list, refuse and call themselves, and what is loaded before it is needed."""

import json
import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

import fpt_ray
from fpt_ray.__main__ import COMMANDS, main
from fpt_ray.config.space_files import find_space, known_spaces
from fpt_ray.config.space_yaml import load_space
from fpt_ray.config.trial import BackboneConfig, trial_from
from fpt_ray.cost import command as cost_command
from fpt_ray.display.door import flag_of, open_door, with_flags
from fpt_ray.errors import ConfigError
from fpt_ray.predict import command as predict_command
from fpt_ray.preload import command as preload_command
from fpt_ray.tune import command as tune_command

HEAVY = {"torch", "timm", "ray", "mlflow", "optuna", "sklearn", "pyarrow", "boto3", "matplotlib", "plotly", "numpy"}
LOADED = """
import json, sys
sys.argv = ["fpt-ray", *sys.argv[1:]]
try:
    {statement}
finally:
    sys.stdout.flush()
    print("\\n" + json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def python(*arguments, code=0):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-1000:]
    return done


# --- the front door -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_front_door_lists_every_command(arguments, capsys):
    main(arguments)
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert tuple(listed) == COMMANDS


def test_a_mistyped_command_is_offered_the_nearest(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["tun"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: there is no command 'tun'; did you mean 'tune'?\n"


def test_the_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"fpt_ray {fpt_ray.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_command_as_it_was_started(command, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fpt-ray"])
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: fpt-ray {command} ")
    assert "nothing:" not in text


@pytest.mark.parametrize("module", ["fpt_ray.features", "fpt_ray features"])
def test_each_door_opens_alone(module):
    assert python("-m", *module.split(), "--help").stdout.startswith(f"usage: python -m {module} ")


# --- what is loaded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        ("import fpt_ray", ()),
        ("import fpt_ray; fpt_ray.TrialConfig; fpt_ray.StudyOptions; fpt_ray.ConfigError", ()),
        ("from fpt_ray.__main__ import main; main()", ()),
        *(("from fpt_ray.__main__ import main; main()", (name, "--help")) for name in COMMANDS),
        ("from fpt_ray.__main__ import main; main()", ("tune", "--list_spaces")),
    ],
)
def test_large_libraries_are_loaded_when_they_are_needed(statement, arguments):
    done = python("-c", LOADED.format(statement=statement), *arguments)
    assert HEAVY & set(json.loads(done.stdout.splitlines()[-1])) == set()


# --- a room's door ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Options:
    number: int = 0


def command_of(**content):
    command = ModuleType("command", "Does it.")
    vars(command).update(content)
    return command


def test_a_door_hands_over_what_is_typed_and_ends_with_the_status():
    seen = []
    open_door(command_of(Command=Options, run=seen.append), "x", ["--number", "3"])
    assert seen == [Options(number=3)]
    with pytest.raises(SystemExit) as ended:
        open_door(command_of(Command=Options, run=lambda options: options.number), "x", ["--number", "3"])
    assert ended.value.code == 3


def test_an_action_needs_no_other_option(capsys):
    main(["tune", "--list_spaces"])
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == list(known_spaces())


def test_the_verbs_own_options_are_at_hand(capsys):
    def verb(weights: str = "") -> None:
        raise ConfigError(f"weights is {weights!r}", fields=("weights", "other"))

    with pytest.raises(SystemExit) as ended:
        open_door(command_of(VERBS={"one": lambda: None, "two": verb}), "x", ["two", "--weights", "w"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: weights is 'w' (here: --weights ...)\n"


# --- how a field is set -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "field", "flag"),
    [
        (preload_command, "backbone.weights", "--backbone.weights ..."),
        (cost_command, "backbone.weights", "--backbone.weights ..."),
        (cost_command, "measure", "--measure"),
        (cost_command, "resume", None),
        (tune_command, "backbone.weights", "--set backbone.weights=..."),
        (tune_command, "resume", "--resume"),
        (tune_command, "study", "--study ..."),
    ],
)
def test_a_field_is_set_by_the_flag_of_the_command_at_hand(command, field, flag):
    assert flag_of(field, command.Command) == flag


def test_an_error_ends_with_the_flags_that_mend_it():
    error = ConfigError("study 's' exists", fields=("resume", "study"))
    assert with_flags(error, tune_command.Command) == "study 's' exists (here: --resume, --study ...)"
    assert with_flags(error, cost_command.Command) == "study 's' exists"


def test_missing_weights_are_told_with_the_flag(tmp_path):
    from fpt_ray.models.weights import load_backbone

    with pytest.raises(ConfigError, match="there is no file") as error:
        load_backbone(BackboneConfig(name="vit_tiny_patch16_224", weights=str(tmp_path / "none.pth")), 224)
    assert with_flags(error.value, preload_command.Command).endswith("(here: --backbone.weights ...)")
    assert with_flags(error.value, predict_command.Command).endswith("(here: --backbone ...)")
    assert with_flags(error.value, predict_command.VERBS["pack"]).endswith("(here: --backbone ...)")


# --- search spaces by name ------------------------------------------------------------------------------------------


def test_a_space_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    assert load_space("paper") == load_space(known_spaces()["paper"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").write_text(known_spaces()["smoke"].read_text())
    assert load_space("paper") == load_space("smoke")  # a file of that name is nearer


def test_an_unknown_space_is_offered_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"space is 'papper', .*; did you mean 'paper'\?"):
        find_space("papper")
    with pytest.raises(ConfigError, match=r"paper\.yaml: .* cannot be read .*; fpt_ray has one named 'paper'"):
        load_space(tmp_path / "paper.yaml")


def test_a_folder_does_not_hide_a_space_of_its_name(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_space("demo") == known_spaces()["demo"]


def test_preload_refuses_a_space_beside_options_of_a_trial():
    options = preload_command.Command(images="i", space="smoke", trial=trial_from({"side.depth": 2}))
    with pytest.raises(ConfigError, match="a space and options of a trial are given"):
        preload_command.run(options)
