"""That a trial's end could not be told ends the search, as any other failure of a storage or of MLflow does."""

from typing import Any, Protocol, runtime_checkable

from ray import tune
from typing_extensions import override


@runtime_checkable
class Teller(Protocol):
    """Who tells a study's storage, or MLflow, how a trial has ended."""

    failure: Exception | None
    """What first went wrong there."""


class EndsTold(tune.Callback):
    """Raises what went wrong when a trial's end was told.

    Tune takes it for the trial's own failure: it has a finished trial run again, whose end is then told by nobody, so
    that the study would wait for it for ever.
    """

    def __init__(self, *tellers: Teller) -> None:
        self.tellers = tellers

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshot of the experiment, which is never read

    @override
    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ends the search; what is raised here Tune lets through."""
        self.raise_first()

    def raise_first(self) -> None:
        """Raises the first failure, if there is any."""
        for teller in self.tellers:
            if teller.failure is not None:
                raise teller.failure
