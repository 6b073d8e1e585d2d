"""The door of the room: ``python -m fpt_ray.demo``."""

from fpt_ray.demo.command import main
from fpt_ray.display.terminal import run_command

if __name__ == "__main__":
    run_command(main)
