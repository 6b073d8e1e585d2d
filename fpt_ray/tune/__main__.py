"""The door of the room: ``python -m fpt_ray.tune``."""

from fpt_ray.display.terminal import run_command
from fpt_ray.tune.command import main

if __name__ == "__main__":
    run_command(main)
