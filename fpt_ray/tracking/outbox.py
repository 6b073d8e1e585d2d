"""Lines that a thread delivers in order, so that nobody waits for who receives them; a file keeps what is not there."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fpt_ray.display.terminal import say
from fpt_ray.errors import ConfigError
from fpt_ray.storage.errors import FullError, disk_full_as_error
from fpt_ray.storage.local import append
from fpt_ray.tracking.waiting import WaitingFile

PAUSE_SECONDS = 5.0
"""Between two tries."""
_FULL_DISK_SECONDS = 60.0
"""That a line is waited for which cannot be kept."""


class AwayError(Exception):
    """A line could not be delivered; trying again may help."""


class RefusedError(Exception):
    """A line will never be taken."""


@dataclass(frozen=True, slots=True)
class Line:
    """What waits."""

    text: str
    again: bool = False
    """Whether it may have been taken before: its answer was lost, or its driver died."""


class Outbox:
    """Lines for MLflow.

    ``send`` delivers one; ``receiver`` is what messages call who takes them. A line is durable once it is added: a
    driver that dies leaves it to the next one. What is refused goes to the file ``refused``, with the answer.
    """

    def __init__(self, receiver: str, waiting: Path, refused: Path, send: Callable[[Line], None]) -> None:
        self.receiver, self.refused, self.send = receiver, refused, send
        self.num_refused = 0
        self.changed = threading.Condition()
        """Guards what follows."""
        self.file = WaitingFile(waiting)
        self.lines = deque(Line(text, again=True) for text in self.file.take_over())
        self.answered = 0
        """Lines that were taken or refused."""
        self.away_since: int | None = 0 if self.lines else None
        """How many these were when the receiver was first away; None: it is there."""
        self.thread: threading.Thread | None = None
        """It runs while anything waits."""
        self.failure: Exception | None = None
        """What has ended the thread otherwise."""
        self.closed = False

    def add(self, written: Callable[[], str]) -> None:
        """Hands a line over; ``written`` makes it, with nothing delivered meanwhile.

        Where the disk is full, it is waited for until the line is delivered instead of kept.

        Raises:
            FullError: the disk is full, and the line could not be delivered either.
            Exception: what has gone wrong in the thread; the line is added.
        """
        with self.changed:
            line = Line(written())
            full = self._kept(line)
            self.lines.append(line)
            self._start()
            if full is not None and not self._delivered(self.answered + len(self.lines)):
                raise full
            self._raise_failure()

    def _kept(self, line: Line) -> FullError | None:
        """Makes a line durable; what keeps it from that, if the disk is full."""
        try:
            self.file.append(line.text)
        except FullError as error:
            return error
        return None

    def _delivered(self, answered: int) -> bool:
        """Waits until so many lines are taken or refused; False if the receiver is away, or the thread has failed."""
        self.changed.wait_for(
            lambda: self.answered >= answered or self.away_since is not None or self.failure is not None,
            _FULL_DISK_SECONDS,
        )
        return self.answered >= answered

    def settle(self, patience_seconds: float) -> None:
        """Waits until all is delivered.

        Raises:
            ConfigError: nothing could be delivered for so long; what waits is kept.
            Exception: what has gone wrong in the thread.
        """
        with self.changed:
            self._start()
            answered, deadline = self.answered, time.monotonic() + patience_seconds
            while self.lines and self.failure is None:
                if self.answered > answered:
                    answered, deadline = self.answered, time.monotonic() + patience_seconds
                if (left := deadline - time.monotonic()) <= 0:
                    raise self.given_up(patience_seconds)
                self.changed.wait(left)
            self._raise_failure()

    def given_up(self, patience_seconds: float) -> ConfigError:
        """The error of who has waited for so long."""
        return ConfigError(
            f"{self.receiver} has been away for {patience_seconds:.0f} s; what it lacks is kept in {self.file.path}: "
            "bring it back and resume the study",
            fields=("resume",),
        )

    def close(self) -> None:
        """Ends delivery after the line that is under way, and says how many were refused."""
        with self.changed:
            self.closed, thread = True, self.thread
            self.changed.notify_all()
        if thread is not None:
            thread.join()
        self.file.release()
        if self.num_refused:
            count = f"{self.num_refused} line{'s' if self.num_refused > 1 else ''}"
            say(f"{self.receiver} has refused {count} of this study, kept with the answers in {self.refused}")

    def _raise_failure(self) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    # --- the thread -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self.lines and self.thread is None and not self.closed:
            self.thread = threading.Thread(target=self._deliver, daemon=True, name="outbox")
            self.thread.start()

    def _deliver(self) -> None:
        try:
            while (line := self._next()) is not None:
                try:
                    self.send(line)
                except AwayError as error:
                    self._pause(line, error)
                    continue
                except RefusedError as error:
                    self._refuse(line, error)
                self._done()
        except Exception as error:  # whoever adds or waits next is told
            with self.changed:
                self.failure, self.thread = error, None
                self.changed.notify_all()

    def _next(self) -> Line | None:
        with self.changed:
            if self.lines and not self.closed:
                return self.lines[0]
            self.thread = None
            return None

    def _done(self) -> None:
        with self.changed:
            self.lines.popleft()
            self.answered += 1
            if not self.lines:
                self.file.clear()
                if self.away_since is not None:
                    number = self.answered - self.away_since
                    say(f"{self.receiver} is back and has taken the {number} lines that waited")
                self.away_since = None
            self.changed.notify_all()

    def _pause(self, line: Line, error: AwayError) -> None:
        with self.changed:
            self.lines[0] = replace(line, again=True)
            if self.away_since is None:
                say(f"{self.receiver} is away ({error}); from now on, what it lacks waits in {self.file.path}")
                self.away_since = self.answered
                self.changed.notify_all()  # who waits for a line that cannot be kept need wait no longer
            self.changed.wait_for(lambda: self.closed, PAUSE_SECONDS)

    def _refuse(self, line: Line, error: RefusedError) -> None:
        kept = {"line": line.text, "answer": str(error)}
        with disk_full_as_error(self.refused):
            append(self.refused, f"{json.dumps(kept)}\n".encode())
        if not self.num_refused:
            say(f"{self.receiver} refuses a line ({error}); such lines are kept in {self.refused}")
        self.num_refused += 1
