"""The door of the room: ``python -m fpt_ray.features``."""

from fpt_ray.display.terminal import run_command
from fpt_ray.features.command import main

if __name__ == "__main__":
    run_command(main)
