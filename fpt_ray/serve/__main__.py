"""The door of the room: ``python -m fpt_ray.serve``."""

from fpt_ray.display.door import open_door
from fpt_ray.serve import command

if __name__ == "__main__":
    open_door(command, "python -m fpt_ray.serve")
