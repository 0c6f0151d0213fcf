"""What time it is in a bag that is played, between the messages that say so."""

from __future__ import annotations

_NS_PER_SEC = 1_000_000_000


class BagClock:
    """Goes on between the messages of ``/clock``.

    A message is late by its time on the way, never early, so the one that came earliest for what it
    says is the nearest to the truth: NTP's clock filter (RFC 5905, section 10) takes the sample of
    least delay too. A clock that stands still, before the playing begins, and one that jumps back
    start anew.

    Not safe for threads: one of them takes and asks.

    Args:
        rate: Seconds of the bag in a second, above 0.
    """

    def __init__(self, rate: float) -> None:
        """Know nothing yet."""
        self._rate = rate
        self.start_over()

    def start_over(self) -> None:
        """Forget what was said: another bag begins."""
        self._said_ns: int | None = None
        self._ahead_ns: int | None = None  # of `rate` times the steady clock, at most

    @property
    def said_ns(self) -> int | None:
        """The time in the last message, nanoseconds; None before the first."""
        return self._said_ns

    def take(self, bag_ns: int, at_sec: float) -> None:
        """Take a message.

        Args:
            bag_ns: What it says, nanoseconds.
            at_sec: When it came, on the steady clock.
        """
        before_ns, self._said_ns = self._said_ns, bag_ns
        if before_ns is None or bag_ns <= before_ns:
            self._ahead_ns = None
            return
        ahead_ns = bag_ns - self._steady_ns(at_sec)
        self._ahead_ns = ahead_ns if self._ahead_ns is None else max(ahead_ns, self._ahead_ns)

    def steady_sec(self, bag_ns: int) -> float | None:
        """Return when it was, or will be, a time of the bag, on the steady clock.

        None while the clock is not known to go.
        """
        if self._ahead_ns is None:
            return None
        return (bag_ns - self._ahead_ns) / _NS_PER_SEC / self._rate

    def _steady_ns(self, at_sec: float) -> int:
        return round(at_sec * self._rate * _NS_PER_SEC)
