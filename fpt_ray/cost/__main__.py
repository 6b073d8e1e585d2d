"""The door of the room: ``python -m fpt_ray.cost``."""

from fpt_ray.cost.command import main
from fpt_ray.display.terminal import run_command

if __name__ == "__main__":
    run_command(main)
