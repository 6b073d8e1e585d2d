"""Who imports this looks for garbage rarely: processes that import libraries and trace.

Nothing that is imported becomes garbage, and few objects of a trace while it lasts: to look for it takes a fifth of the
time of either.
"""

import gc

gc.set_threshold(100_000)
