"""Shapes in signatures are checked (beartype) wherever the tests call; a folder for each room, with its name."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float
install_import_hook("fpt_ray", "tests.checked")
