"""The decoder of NetFlow v5, v9 and IPFIX: datagrams of any number of exporters -> records.

    headers and sets of all datagrams -> templates, in order -> options -> data sets, all of one template together

Source: RFC 3954 (v9), RFC 7011 (IPFIX), RFC 5103 (biflows), RFC 5477 (sampling); Cisco's description of v5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.data_sets import Ints, RecordBuffer, Structs, fill_records, num_records_in, rows_of
from thalweg.ingest.netflow.datagrams import MALFORMED, TROUBLES, Datagrams, walk
from thalweg.ingest.netflow.exporters import Exporters
from thalweg.ingest.netflow.held import Held, Key
from thalweg.ingest.netflow.options import OptionsReader
from thalweg.ingest.netflow.plan import DecodePlan
from thalweg.ingest.netflow.sequences import BY_USER, check_sequences, count_headers
from thalweg.ingest.netflow.templates import IPFIX, MAX_PER_DATAGRAM, V5, V9, Template, TemplateSetCache
from thalweg.ingest.records import RECORD, Records, address_text, no_records
from thalweg.tally import Tally

_MAX_PLANS: Final = 4_096
_MAX_PLAN_FIELDS: Final = 200_000
"""Bounds on the plans that are cached: their number, and the fields of all."""
_MAX_CHANGES: Final = 16
"""Changes of one template within one datagram; the data between two changes is decoded separately."""

TemplateChanges = dict[Key, list[tuple[int, Template | None]]]
"""By template that changed within one call: (ordinal of a set, template in force after it), the first one at -1."""
Buffer = npt.NDArray[np.uint8]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """The data sets of one exporter with one template, in one buffer."""

    row: int
    plan: DecodePlan
    ordinals: Ints
    num_rows: Ints


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Late:
    """The data sets of one exporter that were held for a template, in a buffer of their own."""

    row: int
    template: Template
    buffer: Buffer
    headers: Structs
    sets: Structs


@final
class Decoder:
    """Decodes datagrams into records, and keeps the templates, sampling and sequence numbers of exporters.

    The records do not depend on how datagrams are split over calls, except that options hold for the whole call they
    arrive in. reuse: each call reuses the memory of the records of the call before, which become invalid.
    """

    def __init__(self, config: DecoderConfig | None = None, *, reuse: bool = False) -> None:
        self.config = config or DecoderConfig()
        self._reused = RecordBuffer() if reuse else None
        self.tally = Tally()
        self.held = Held(self.config.max_held_bytes, int(self.config.hold_s * 1e6), self._count_undecoded)
        self._lifetime_us = int(self.config.template_lifetime_s * 1e6)
        self.exporters = Exporters(
            self.config.max_exporters,
            lifetime_us=self._lifetime_us,
            sampling=self.config.sampling,
            max_fields=self.config.max_fields,
            max_samplers=self.config.max_samplers,
            tally=self.tally,
            on_evict=self.held.drop_row,
        )
        self._plans: dict[Template, DecodePlan] = {}
        self._num_plan_fields = 0
        self._template_sets = TemplateSetCache()

    @property
    def names(self) -> list[str]:
        """The names that `exporter` of a record indexes: an address for each exporter and domain."""
        return self.exporters.names.texts

    def decode(self, datagrams: Datagrams) -> Records:
        """Return the flow records of datagrams in order of arrival; everything else is stored or counted."""
        if not len(datagrams):
            return no_records()
        headers, sets = walk(datagrams)
        if not self.exporters.assign(headers):
            # Too many exporters for one call: decode each half by itself.
            parts = np.split(datagrams.arrived, [len(datagrams) // 2])
            return np.concatenate([self.decode(Datagrams(datagrams.buffer, arrived)).copy() for arrived in parts])
        count_headers(self.exporters.table, headers, datagrams.arrived["length"])
        self._count_troubles(headers)
        if (headers["exporter"] < 0).any():
            sets = sets[headers["exporter"][sets["datagram"]] >= 0]
        late: list[_Late] = []
        changes = self._learn_templates(datagrams.buffer, headers, sets, late)
        groups = self._group_data(datagrams.buffer, headers, sets, changes, late)
        # What waited for its template is decoded last: the options that come with a template hold for it, too.
        released = self._decode_late(late)
        records = self._fill(groups, datagrams.buffer, headers, sets, self._reused)
        check_sequences(self.exporters.table, headers)
        self.held.sweep(int(headers["arrival_us"][-1]))
        return np.concatenate([*released, records]) if released else records

    def _count_troubles(self, headers: Structs) -> None:
        for code in np.unique(headers["trouble"]):
            if code:
                bad = headers["trouble"] == code
                hi, lo = (int(headers[name][bad.argmax()]) for name in ("hi", "lo"))
                self.tally.add(TROUBLES[code], int(bad.sum()), address_text(hi, lo))

    def _learn_templates(self, buffer: Buffer, headers: Structs, sets: Structs, late: list[_Late]) -> TemplateChanges:
        """Read template sets in order, and return the changes. late: held sets whose template arrived are added."""
        changes: TemplateChanges = {}
        num_left, num_changes = MAX_PER_DATAGRAM, Counter[int]()
        for ordinal, is_first in self._template_set_ordinals(headers, sets):
            one = sets[ordinal]
            header = headers[one["datagram"]]
            row, arrival, options = int(header["exporter"]), int(header["arrival_us"]), int(one["id"]) in (1, 3)
            if is_first:
                num_left, num_changes = MAX_PER_DATAGRAM, Counter[int]()
            if not num_left:
                self._count_refused(row)
                continue
            content = buffer[one["begin"] : one["end"]].tobytes()
            templates, trouble = self._template_sets.read(content, int(one["version"]), options)
            self._count_refused(row, len(templates[num_left:]))
            for id_, template in templates[:num_left]:
                if template is None and not self.exporters.is_file(row):
                    self.tally.add("ignored_withdrawals", 1, self.exporters.sender(row))
                    continue
                if num_changes[id_] > _MAX_CHANGES:
                    self._count_refused(row)
                    continue
                for changed, before in self._learn(row, id_, template, arrival):
                    num_changes[changed] += 1
                    changes.setdefault((row, changed), [(-1, before)]).append((ordinal, template))
                    if template is not None:
                        late += self._take_held((row, changed), template, arrival)
            num_left = max(num_left - len(templates), 0)
            if trouble:
                self.tally.add(trouble, 1, self.exporters.sender(row))
                if trouble != "refused_templates":
                    self._count_malformed(row, headers, one)
        return changes

    def _template_set_ordinals(self, headers: Structs, sets: Structs) -> Iterator[tuple[int, bool]]:
        """Yield template sets, and whether each is the first of its datagram; count those beyond MAX_PER_DATAGRAM."""
        ordinals = np.flatnonzero(_are_templates(sets))
        if not len(ordinals):
            return
        datagrams = sets["datagram"][ordinals]
        nth = np.arange(len(ordinals)) - np.searchsorted(datagrams, datagrams)
        for datagram, num in zip(*np.unique(datagrams[nth >= MAX_PER_DATAGRAM], return_counts=True), strict=True):
            self._count_refused(int(headers["exporter"][datagram]), int(num))
        allowed = nth < MAX_PER_DATAGRAM
        yield from zip(ordinals[allowed].tolist(), (nth[allowed] == 0).tolist(), strict=True)

    def _learn(
        self, row: int, id_: int, template: Template | None, arrival_us: int
    ) -> Iterator[tuple[int, Template | None]]:
        """Store one template, or a withdrawal. Yields: the ids that changed, and their templates before."""
        known = self.exporters.templates.get(row, {})
        if template is None:
            ids = [id_] if id_ > 255 else [i for i, (old, _) in known.items() if old.is_options == (id_ == 3)]
            for withdrawn in ids:
                if (old := self.exporters.drop_template(row, withdrawn)) is not None:
                    yield withdrawn, old
            return
        before = known[id_][0] if id_ in known else None
        full = before is None and len(known) >= self.config.max_templates
        if full or not self.exporters.put_template(row, id_, template, arrival_us):
            self._count_refused(row)
        elif before != template:
            if before is not None:
                self.exporters.table["changed_templates"][row] += 1
            yield id_, before

    def _count_refused(self, row: int, num: int = 1) -> None:
        self.tally.add("refused_templates", num, self.exporters.sender(row))

    def _count_malformed(self, row: int, headers: Structs, one: Any) -> None:
        """Count a datagram as malformed, but only once."""
        if not headers["trouble"][one["datagram"]]:
            headers["trouble"][one["datagram"]] = MALFORMED
            self.exporters.table["malformed"][row] += 1

    def _template(self, row: int, id_: int, arrival_us: int) -> Template | None:
        found = self.exporters.templates.get(row, {}).get(id_)
        if found is None:
            return None
        template, seen_us = found
        if arrival_us - seen_us > self._lifetime_us:
            self.exporters.drop_template(row, id_)
            self.tally.add("expired_templates", 1, self.exporters.sender(row))
            return None
        return template

    def _plan(self, template: Template) -> DecodePlan:
        plan = self._plans.get(template)
        if plan is None:
            self._num_plan_fields += len(template.fields)
            if len(self._plans) >= _MAX_PLANS or self._num_plan_fields > _MAX_PLAN_FIELDS:
                self._plans.clear()
                self._num_plan_fields = len(template.fields)
            plan = self._plans[template] = DecodePlan.of(template)
        return plan

    # Data sets.

    def _group_data(
        self, buffer: Buffer, headers: Structs, sets: Structs, changes: TemplateChanges, late: list[_Late]
    ) -> list[_Group]:
        """Group data sets by template, and read those of options. late: held sets whose template arrived are added."""
        is_v5 = sets["version"] == 5
        is_data = (sets["id"] > 255) | is_v5
        self.tally.add("reserved_sets", int((~is_data & ~_are_templates(sets)).sum()))
        ordinals = np.flatnonzero(is_data & (sets["end"] > sets["begin"]))
        if not len(ordinals):
            return []
        key = headers["exporter"][sets["datagram"][ordinals]].astype(np.int64) << 16 | sets["id"][ordinals]
        key[is_v5[ordinals]] = -1 << 16  # all exporters send the same records
        groups: list[_Group] = []
        for at in _by_key(key):
            first = sets[ordinals[at[0]]]
            row, id_ = int(key[at[0]] >> 16), int(first["id"])
            is_held = False
            for part, template, since in self._by_template(row, id_, ordinals[at], headers, sets, changes):
                if template is None:
                    is_held |= self._hold(row, id_, buffer, headers, sets.take(part))
                    continue
                if is_held:
                    late += self._take_held((row, id_), template, int(headers["arrival_us"][sets["datagram"][since]]))
                    is_held = False
                if len(part):
                    groups.append(self._group(row, template, part, buffer, headers, sets.take(part)))
        return groups

    def _by_template(
        self, row: int, id_: int, ordinals: Ints, headers: Structs, sets: Structs, changes: TemplateChanges
    ) -> Iterator[tuple[Ints, Template | None, int]]:
        """Split the sets of one id by the template in force when each arrived.

        Yields: sets; their template, None if unknown; the template set that brought it.
        """
        if sets["version"][ordinals[0]] == 5:
            yield ordinals, V5, 0
            return
        changed = changes.get((row, id_))
        if changed is None:
            yield ordinals, self._template(row, id_, int(headers["arrival_us"][sets["datagram"][ordinals[0]]])), 0
            return
        cuts = [int(np.searchsorted(ordinals, ordinal)) for ordinal, _ in changed] + [len(ordinals)]
        for (begin, end), (ordinal, template) in zip(pairwise(cuts), changed, strict=True):
            yield ordinals[begin:end], template, max(ordinal, 0)

    def _group(
        self, row: int, template: Template, ordinals: Ints, buffer: Buffer, headers: Structs, sets: Structs
    ) -> _Group:
        """Read the options of data sets, count their records and errors, and plan the decoding."""
        plan = self._plan(template)
        if plan.options is not None:
            self._read_options(row, plan.options, buffer, sets)
        num_rows, num_broken = num_records_in(plan, buffer, sets)
        if num_broken:
            self.tally.add("broken_records", num_broken, self.exporters.sender(row))
            self.exporters.table["broken_records"][row] += num_broken
        np.add.at(headers["num_records"], sets["datagram"], num_rows.astype(np.uint32))
        if not plan.is_flow:
            if not template.is_options:
                self.tally.add("other_records", int(num_rows.sum()), self.exporters.sender(row))
                self.exporters.table["other_records"][row] += num_rows.sum()
            num_rows = np.zeros_like(num_rows)
        return _Group(row, plan, ordinals, num_rows)

    def _fill(
        self, groups: list[_Group], buffer: Buffer, headers: Structs, sets: Structs, reused: RecordBuffer | None = None
    ) -> Records:
        """Decode the records of all groups, in the order of their sets."""
        num_rows = np.zeros(len(sets), np.int64)
        for group in groups:
            num_rows[group.ordinals] = group.num_rows
        last = np.cumsum(num_rows)
        first = last - num_rows
        num = int(last[-1]) if len(last) else 0
        records = np.empty(num, RECORD) if reused is None else reused.rows(num)
        keep: npt.NDArray[np.bool_] | None = None
        table = self.exporters.table
        for group in groups:
            filled = group.ordinals[group.num_rows > 0]
            if not len(filled):
                continue
            samplers = self.exporters.samplers_of(group.row)
            before = int(table["disbelieved_intervals"][group.row])
            kept = fill_records(
                group.plan,
                buffer,
                headers,
                sets.take(filled),
                records,
                first_row=first[filled],
                num_rows=num_rows[filled],
                table=table,
                samplers=samplers,
                init_ms=self.exporters.init_ms.get(group.row, 0),
            )
            if group.plan.sampled_by and samplers and group.row not in self.exporters.samplers:
                latest = int(records["sampling"][first[filled[-1]] + num_rows[filled[-1]] - 1])
                table["borrowed_sampling"][group.row] = latest if latest > 1 else 0
            disbelieved = int(table["disbelieved_intervals"][group.row]) - before
            self.tally.add("disbelieved_intervals", disbelieved, self.exporters.sender(group.row))
            if kept is not None and not kept.all():
                keep = np.ones(len(records), bool) if keep is None else keep
                keep[rows_of(first[filled], num_rows[filled])] = kept
                num = int((~kept).sum())
                table["event_records"][group.row] += num
                table["flows"][group.row] -= num
                self.tally.add("event_records", num, self.exporters.sender(group.row))
        return records if keep is None else records.compress(keep)

    def _read_options(self, row: int, reader: OptionsReader, buffer: Buffer, sets: Structs) -> None:
        """Store the sampling and the start time that options records state."""
        stated = reader.read(buffer, sets)
        if stated.init_ms is not None:
            self.exporters.init_ms[row] = stated.init_ms
        if stated.num_disbelieved and self.exporters.table["sampled_by"][row] != BY_USER:
            self.exporters.table["disbelieved_intervals"][row] += stated.num_disbelieved
            self.tally.add("disbelieved_intervals", stated.num_disbelieved, self.exporters.sender(row))
        self.exporters.put_samplers(row, stated.intervals)

    # Data sets that arrived before their template.

    def _hold(self, row: int, id_: int, buffer: Buffer, headers: Structs, sets: Structs) -> bool:
        """Hold sets for their template, and return whether there was room for any."""
        headers["complete"][sets["datagram"]] = 0
        num = 0
        for one in sets:
            content = buffer[one["begin"] : one["end"]].tobytes()
            num += self.held.add((row, id_), content, headers[one["datagram"]])
        self.exporters.table["held_sets"][row] += num
        self._count_undecoded(row, len(sets) - num)
        return num > 0

    def _count_undecoded(self, row: int, num: int) -> None:
        self.exporters.table["sets_without_template"][row] += num
        self.tally.add("sets_without_template", num, self.exporters.sender(row))

    def _take_held(self, key: Key, template: Template, now_us: int) -> list[_Late]:
        """Return the sets that were held for a template, in a list of one, or none."""
        if not self.held.has(key):
            return []
        buffer, headers, sets = self.held.take(key, template.version, now_us)
        return [_Late(key[0], template, buffer, headers, sets)] if len(sets) else []

    def _decode_late(self, late: list[_Late]) -> list[Records]:
        """Decode sets that were held, the options among them first."""
        groups = [
            self._group(one.row, one.template, np.arange(len(one.sets)), one.buffer, one.headers, one.sets)
            for one in late
        ]
        return [self._fill([group], one.buffer, one.headers, one.sets) for group, one in zip(groups, late, strict=True)]

    # State over a restart.

    def state(self) -> dict[str, Any]:
        """Return everything that decides how later datagrams are decoded, as JSON values for `restore`."""
        return {
            "exporters": self.exporters.state(),
            "held": self.held.state(),
            "counts": self.tally.as_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved `state` as if without a break, with the sampling intervals that the user sets now."""
        self.exporters.restore(state["exporters"])
        self.held.restore(state["held"])
        for name, num in state["counts"].items():
            self.tally.add(name, num)


def _by_key(key: Ints) -> Iterator[Ints]:
    """Yield the positions of each distinct key, in order."""
    if (key == key[0]).all():
        yield np.arange(len(key))
        return
    order = np.argsort(key, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def _are_templates(sets: Structs) -> npt.NDArray[np.bool_]:
    """Return which sets hold templates, (S,) bool."""
    v9, ipfix = sets["version"] == V9, sets["version"] == IPFIX
    found: npt.NDArray[np.bool_] = (v9 & (sets["id"] <= 1)) | (ipfix & ((sets["id"] == 2) | (sets["id"] == 3)))
    return found
