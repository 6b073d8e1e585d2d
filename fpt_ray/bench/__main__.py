"""The door of the room: ``python -m fpt_ray.bench``."""

from fpt_ray.bench.command import main
from fpt_ray.display.terminal import run_command

if __name__ == "__main__":
    run_command(main)
