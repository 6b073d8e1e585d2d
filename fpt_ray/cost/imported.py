"""What predictions need, imported once for the processes of ``processes.each``, which are forked from the one it is in.

Nothing that is imported becomes garbage, and few objects of a trace while it lasts: to look for it takes a fifth of the
time of either.
"""

import gc
from importlib import import_module

gc.set_threshold(100_000)
for _name in ("fpt_ray.cost.prediction", "peft"):
    import_module(_name)
