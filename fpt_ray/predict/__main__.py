"""The door of the room: ``python -m fpt_ray.predict``."""

from fpt_ray.display.door import open_door
from fpt_ray.predict import command

if __name__ == "__main__":
    open_door(command, "python -m fpt_ray.predict")
