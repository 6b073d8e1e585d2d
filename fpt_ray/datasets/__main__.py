"""The door of the room: ``python -m fpt_ray.datasets``."""

from fpt_ray.datasets import command
from fpt_ray.display.door import open_door

if __name__ == "__main__":
    open_door(command, "python -m fpt_ray.datasets")
