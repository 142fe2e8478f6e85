"""How much of the decoder's time each sender may take, so that none starves another.

Work is estimated in microseconds by what has to be done, and not measured by a clock, and time is that of arrival: a
replay of the same datagrams skips the same ones.
"""

from __future__ import annotations

from typing import Any, Final, final

TEMPLATE_SET_US: Final = 8
TEMPLATE_US: Final = 3
"""A template that is already known."""
CHANGED_TEMPLATE_US: Final = 60
"""A new or changed template, with the plan by which its records are decoded..."""
CHANGED_FIELD_US: Final = 1
"""...and each of its fields."""
DATA_US: Final = 4
"""The data sets of one exporter and template in a call..."""
GROUP_US: Final = 80
"""...and the decoding of those of all exporters with one template..."""
OTHER_GROUP_US: Final = 200
"""...or of one exporter if a template's fields change others, or have meanings by exporter."""

_FREE_US: Final = 250
"""Work of a sender in each call that is not counted: the records of one template."""
_SHARE: Final = 10
"""A sender may take a tenth of the time..."""
_BURST_US: Final = 50_000
"""...and so much work at once: some 600 new templates."""
_MAX_DEBTORS: Final = 16_384

Sender = tuple[int, int]
"""Both halves of an address."""


@final
class WorkBudget:
    """The debts of senders: the work that they have caused, which time pays off."""

    def __init__(self) -> None:
        self._arrival_us = 0
        self._clock_us = 0
        """goes on as arrivals do, but never back"""
        self._paid_at: dict[Sender, int] = {}
        """by sender: when its debt will be paid, by this clock"""
        self._free_us: dict[Sender, int] = {}
        """by sender: the free work that is left in this call"""

    def begin(self, arrival_us: int) -> None:
        """Set the time of a call: the arrival of its last datagram."""
        self._clock_us += max(arrival_us - self._arrival_us, 0)
        self._arrival_us = arrival_us
        self._free_us.clear()
        if len(self._paid_at) > _MAX_DEBTORS:
            self._paid_at = {sender: at for sender, at in self._paid_at.items() if at > self._clock_us}
            if len(self._paid_at) > _MAX_DEBTORS:
                self._paid_at.clear()

    def allows(self, sender: Sender) -> bool:
        """Return whether a sender may cause more work."""
        return self._paid_at.get(sender, 0) - self._clock_us < _BURST_US * _SHARE

    def charge(self, sender: Sender, work_us: int) -> None:
        """Add the work that a sender causes to its debt."""
        free_us = self._free_us.get(sender, _FREE_US)
        self._free_us[sender] = max(free_us - work_us, 0)
        if work_us > free_us:
            begin = max(self._paid_at.get(sender, 0), self._clock_us)
            self._paid_at[sender] = begin + (work_us - free_us) * _SHARE

    def state(self) -> list[Any]:
        """Return the debts as JSON values, for `restore`."""
        owed = [[*sender, at] for sender, at in self._paid_at.items() if at > self._clock_us]
        return [self._arrival_us, self._clock_us, owed]

    def restore(self, state: list[Any]) -> None:
        """Continue from a saved `state`."""
        self._arrival_us, self._clock_us, owed = state
        self._paid_at = {(hi, lo): at for hi, lo, at in owed}
