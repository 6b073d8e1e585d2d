"""Shapes in signatures are checked (beartype) wherever the tests call; a folder for each room, with its name."""

from importlib.util import find_spec

from jaxtyping import install_import_hook

if find_spec("beartype"):  # ``make test-gpu`` runs with what a machine with a GPU has
    from beartype import BeartypeConf, beartype

    checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
    install_import_hook("fpt_ray", "tests.checked")
