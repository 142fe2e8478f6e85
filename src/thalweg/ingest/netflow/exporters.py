"""Who sends: one row of counts each, its templates and its sampling; bounded, however many pretend to."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from itertools import islice
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow.datagrams import SHORT, UNKNOWN
from thalweg.ingest.netflow.names import Names
from thalweg.ingest.netflow.options import ALL, MAX_SAMPLERS
from thalweg.ingest.netflow.sequences import COUNTS, EXPORTER, SAMPLED_BY
from thalweg.ingest.netflow.templates import Template
from thalweg.ingest.records import address_text
from thalweg.tally import Tally

Key = tuple[int, int, int, int]
"""An exporter: both halves of its address, its domain, its version."""
_AT_ONCE: Final = 8
"""No more than this part of all places is given to new exporters at once."""
_SHARE: Final = 16
"""No exporter may have more than this part of all fields, nor of all samplers, that are remembered."""


@final
class Exporters:
    """A bounded table of exporters. Row numbers stay valid while an exporter is in it.

    most: exporters; the least useful ones leave where there are more. lifetime_us: of templates that do not come again.
    sampling: what the user says, by address or "*". max_fields, max_samplers: of all exporters' templates and options.
    tally: where it is counted what had to leave. leaves: told of the row of an exporter that has to.
    """

    def __init__(
        self,
        most: int,
        *,
        lifetime_us: int,
        sampling: Mapping[str, int],
        max_fields: int,
        max_samplers: int,
        tally: Tally,
        leaves: Callable[[int], None],
    ) -> None:
        self.most = most
        self._lifetime_us, self._sampling = lifetime_us, sampling
        self._max_fields, self._max_samplers = max_fields, max_samplers
        self._tally, self._leaves = tally, leaves
        self.table: npt.NDArray[np.void] = np.zeros(0, EXPORTER)
        self.rows: dict[Key, int] = {}
        self.templates: dict[int, dict[int, tuple[Template, int]]] = {}
        """by row, then by id: the template and when it last came, microseconds"""
        self.names = Names(4 * most, lambda: self.table["name"][self.table["in_use"] == 1])
        """what flows carry"""
        self.samplers: dict[int, dict[int, int]] = {}
        """by row, then by sampler: one packet in so many"""
        self.init_ms: dict[int, int] = {}
        """by row: when it started, milliseconds since 1970, where options have said so"""
        self.num_fields = 0
        """of all templates"""
        self.num_samplers = 0
        self.forgotten: dict[str, int] = dict.fromkeys(COUNTS, 0)
        """the counts of those that are not in the table any more"""
        self._free: list[int] = []

    def sender(self, at: int) -> str:
        """Return an exporter's address, `file` where it has none."""
        return self.names.texts[int(self.table["name"][at])]

    # Who is in the table.

    def find(self, headers: npt.NDArray[np.void]) -> bool:
        """Give each readable header the row of its exporter. Returns: False where these are too many at once."""
        # Mostly all are of one exporter that is known.
        known = self.rows.get(_key(headers[0]))
        if (
            known is not None
            and not headers["trouble"].any()
            and all((headers[n] == headers[n][0]).all() for n in _KEY)
        ):
            headers["exporter"] = known
            return True
        readable = np.flatnonzero((headers["trouble"] != SHORT) & (headers["trouble"] != UNKNOWN))
        if not len(readable):
            return True
        of = headers[readable]
        first, which = _distinct(of)
        keys = [_key(of[at]) for at in first]
        new = [i for i in np.argsort(first) if keys[i] not in self.rows]
        excess = len(self.rows) + len(new) - self.most
        # Those of one call do not make room for each other: a few at once, so that the others' places are safe.
        if len(first) > self.most or (excess > 0 and len(new) > max(self.most // _AT_ONCE, 1)):
            return False
        if new and excess > 0:
            here = {self.rows[key] for key in keys if key in self.rows}
            for row in self._least_useful(excess, int(of["arrival_us"][-1]), here):
                self._tally.add("forgotten_exporters", 1, self.sender(row))
                self._leaves(row)
                self._forget(row)
        for i in new:
            self._take_in(keys[i], int(of["arrival_us"][first[i]]))
        headers["exporter"][readable] = np.array([self.rows[key] for key in keys], np.int32)[which]
        return True

    def _least_useful(
        self, num: int, now_us: int, spared: Container[int], among: Container[int] | None = None
    ) -> list[int]:
        """Return the rows of those whose leaving costs least, at most so many.

        First come those whose templates are too old, then those that have none (v5: nothing of theirs needs to be
        remembered), then those heard for the shortest time: ten thousand names that one machine invents do not push
        out a router. spared: rows that stay. among: the only rows to be looked at.
        """
        rows = np.fromiter(self.rows.values(), np.int64, len(self.rows))
        of = self.table[rows]
        silent = of["last_us"] < now_us - self._lifetime_us
        span = np.where(silent, 0, of["last_us"] - of["first_us"])
        order = np.lexsort((of["last_us"], span, np.where(silent, 0, np.where(of["num_fields"] == 0, 1, 2))))
        found = (int(row) for row in rows[order])
        return list(islice((row for row in found if row not in spared and (among is None or row in among)), num))

    def _take_in(self, key: Key, time_us: int) -> None:
        """Give a new exporter a row; there is room."""
        if self._free:
            at = self._free.pop()
        else:
            at = len(self.rows)
            if at >= len(self.table):
                grown = np.zeros(min(max(16, 2 * at), max(self.most, at + 1)), EXPORTER)
                grown[:at] = self.table
                self.table = grown
        self.table[at] = np.zeros((), EXPORTER)
        row = self.table[at]
        row["hi"], row["lo"], row["domain"], row["version"] = key
        address = address_text(key[0], key[1]) if key[0] or key[1] else "file"
        row["name"] = self.names.number(address, key[2])
        row["in_use"], row["first_us"], row["last_us"] = 1, time_us, time_us
        self.rows[key] = at
        self.choose_interval(at)

    def _forget(self, at: int) -> None:
        """Let an exporter go; its counts stay in the totals."""
        self._drop_templates(at)
        self._drop_samplers(at)
        self.init_ms.pop(at, None)
        old = self.table[at]
        del self.rows[_key(old)]
        for name in COUNTS:
            self.forgotten[name] += int(old[name])
        self.table[at] = np.zeros((), EXPORTER)
        self._free.append(at)

    # What they have said.

    def put_template(self, at: int, id_: int, template: Template, seen_us: int) -> bool:
        """Remember a template, or that it came again. Returns: False where the exporter may not have so many fields."""
        known = self.templates.setdefault(at, {})
        more = len(template.fields) - (len(known[id_][0].fields) if id_ in known else 0)
        if int(self.table["num_fields"][at]) + more > max(self._max_fields // _SHARE, 1):
            return False
        known[id_] = template, seen_us
        self._count_fields(at, more)
        while self.num_fields > self._max_fields:
            (row,) = self._least_useful(1, seen_us, {at}, {row for row, of in self.templates.items() if of})
            self._tally.add("forgotten_templates", self._drop_templates(row), self.sender(row))
        return True

    def drop_template(self, at: int, id_: int) -> Template | None:
        """Forget one template, and return it."""
        template, _ = self.templates.get(at, {}).pop(id_, (None, 0))
        if template is not None:
            self._count_fields(at, -len(template.fields))
        return template

    def _drop_templates(self, at: int) -> int:
        """Forget all templates of one exporter, and return how many there were."""
        self._count_fields(at, -int(self.table["num_fields"][at]))
        return len(self.templates.pop(at, {}))

    def _count_fields(self, at: int, more: int) -> None:
        self.num_fields += more
        self.table["num_fields"][at] = int(self.table["num_fields"][at]) + more

    def put_sampler(self, at: int, id_: int, interval: int) -> None:
        """Remember how a sampler samples; the exporter is looked at anew by `choose_interval`."""
        samplers = self.samplers.setdefault(at, {})
        if id_ not in samplers:
            if len(samplers) >= min(MAX_SAMPLERS, max(self._max_samplers // _SHARE, 1)):
                self._tally.add("refused_samplers", 1, self.sender(at))
                return
            self.num_samplers += 1
        samplers[id_] = interval
        if self.num_samplers > self._max_samplers:
            (row,) = self._least_useful(1, int(self.table["last_us"][at]), {at}, {*self.samplers})
            self._tally.add("forgotten_samplers", self._drop_samplers(row), self.sender(row))
            self.choose_interval(row)

    def _drop_samplers(self, at: int) -> int:
        num = len(self.samplers.pop(at, {}))
        self.num_samplers -= num
        return num

    def choose_interval(self, at: int) -> None:
        """Settle how an exporter samples: by what the user says, or else by what it says itself."""
        row = self.table[at]
        if by_user := self._sampling.get(self.sender(at), self._sampling.get("*", 0)):
            row["sampling"], row["sampled_by"] = by_user, 3
            return
        samplers = self.samplers.get(at, {})
        # A record that names no sampler was made by the only one there is, if there is only one.
        intervals = set(samplers.values())
        interval = samplers.get(ALL) or (intervals.pop() if len(intervals) == 1 else 0)
        if interval or row["sampled_by"] != 1:
            row["sampling"], row["sampled_by"] = interval, 2 if interval else 0

    # For people, and over a restart.

    def totals(self) -> dict[str, int]:
        """Return the counts of all exporters together, of those that had to leave, too."""
        return {name: num + int(self.table[name].sum()) for name, num in self.forgotten.items()}

    @property
    def num_templates(self) -> int:
        """Of all exporters."""
        return sum(map(len, self.templates.values()))

    def describe(self) -> list[dict[str, Any]]:
        """Return what is known of each, for people: counts, templates, sampling; as JSON values."""
        found = []
        for (hi, lo, domain, version), row in list(self.rows.items()):
            of = self.table[row]
            templates = self.templates.get(row, {})
            found.append(
                {
                    "exporter": address_text(hi, lo) if hi or lo else "file",
                    "domain": domain,
                    "version": version,
                    "first_seen": int(of["first_us"]) / 1e6,
                    "last_seen": int(of["last_us"]) / 1e6,
                    "clock_error_s": int(of["clock_error_us"]) / 1e6,
                    "sampling": int(of["sampling"]),
                    "sampled_by": SAMPLED_BY[int(of["sampled_by"])],
                    "samplers": {
                        str(name): interval for name, interval in self.samplers.get(row, {}).items() if name != ALL
                    },
                    "templates": sorted(id_ for id_, (one, _) in templates.items() if not one.is_options),
                    "options_templates": sorted(id_ for id_, (one, _) in templates.items() if one.is_options),
                    **{name: int(of[name]) for name in COUNTS},
                }
            )
        return found

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "table": [[int(value) for value in self.table[row].item()] for row in self.rows.values()],
            "columns": list(EXPORTER.names or ()),
            "rows": list(self.rows.values()),
            "templates": [
                [row, id_, seen_us, template.as_list()]
                for row, of in self.templates.items()
                for id_, (template, seen_us) in of.items()
            ],
            "samplers": [[row, id_, interval] for row, of in self.samplers.items() for id_, interval in of.items()],
            "init_ms": list(self.init_ms.items()),
            "names": self.names.state(),
            "forgotten": dict(self.forgotten),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, but for sampling that the user sets now.

        A column of another version of the program begins at 0.
        """
        self.table = np.zeros(max(state["rows"], default=-1) + 1, EXPORTER)
        self.rows, self.templates, self.samplers = {}, {}, {}
        self.num_fields = self.num_samplers = 0
        self.init_ms = dict(state["init_ms"])
        self.names.restore(state["names"])
        for row, values in zip(state["rows"], state["table"], strict=True):
            for name, value in zip(state["columns"], values, strict=True):
                if name in (EXPORTER.names or ()):
                    self.table[row][name] = value
            self.rows[_key(self.table[row])] = row
        self.table["num_fields"] = 0
        self._free = sorted(set(range(len(self.table))) - set(state["rows"]), reverse=True)
        for row, id_, seen_us, template in state["templates"]:
            self.put_template(row, id_, Template.from_list(template), seen_us)
        for row, id_, interval in state["samplers"]:
            self.put_sampler(row, id_, interval)
        for row in self.rows.values():
            self.choose_interval(row)
        self.forgotten = {name: int(state["forgotten"].get(name, 0)) for name in COUNTS}


_KEY: Final = ("hi", "lo", "domain", "version")


def _key(row: Any) -> Key:
    return int(row["hi"]), int(row["lo"]), int(row["domain"]), int(row["version"])


def _distinct(headers: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Find the different exporters among headers. Returns: where each is first; which of these each header's is."""
    while True:
        salt = np.random.default_rng().integers(1, 1 << 63, 4, dtype=np.uint64) | np.uint64(1)
        with np.errstate(over="ignore"):
            mixed = headers["hi"] * salt[0] ^ headers["lo"] * salt[1]
            mixed ^= headers["domain"] * salt[2] ^ headers["version"] * salt[3]
        if (mixed == mixed[0]).all():
            first, which = np.zeros(1, np.int64), np.zeros(len(headers), np.int64)
        else:
            _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
        # Two exporters that are mixed to the same number are as good as impossible; another salt parts them.
        if all((headers[name][first][which] == headers[name]).all() for name in _KEY):
            return first, which
