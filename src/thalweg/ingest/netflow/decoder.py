"""The decoder of NetFlow v5, v9 and IPFIX: datagrams of any number of exporters -> records.

    headers and sets of all datagrams -> templates, in order -> options -> data sets, all of one template together

Source: RFC 3954 (v9), RFC 7011 (IPFIX), RFC 5103 (biflows), RFC 5477 (sampling); Cisco's description of v5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.ingest.netflow.budget import (
    CHANGED_FIELD_US,
    CHANGED_TEMPLATE_US,
    DATA_US,
    GROUP_US,
    OTHER_GROUP_US,
    TEMPLATE_SET_US,
    TEMPLATE_US,
    Sender,
    WorkBudget,
)
from thalweg.ingest.netflow.config import DecoderConfig
from thalweg.ingest.netflow.data_sets import Ints, RecordBuffer, Structs, fill_records, num_records_in, rows_of
from thalweg.ingest.netflow.datagrams import MALFORMED, TROUBLES, Datagrams, walk
from thalweg.ingest.netflow.exporters import FILE, Exporters
from thalweg.ingest.netflow.held import Held, Key
from thalweg.ingest.netflow.options import OptionsReader
from thalweg.ingest.netflow.plan import DecodePlan
from thalweg.ingest.netflow.sequences import BY_USER, check_sequences, count_headers
from thalweg.ingest.netflow.templates import (
    BYTES_PER_SET,
    BYTES_PER_TEMPLATE,
    FEW_PER_DATAGRAM,
    IPFIX,
    MAX_PER_DATAGRAM,
    V5,
    V9,
    Template,
    TemplateSetCache,
)
from thalweg.ingest.netflow.totals import Totals
from thalweg.ingest.records import RECORD, Records, address_text, no_records
from thalweg.tally import Tally

_MAX_PLANS: Final = 4_096
_MAX_PLAN_FIELDS: Final = 200_000
"""Bounds on the plans that are cached: their number, and the fields of all."""
_DAY_US: Final = 86_400_000_000
_NEVER_SET_US: Final = 1_072_915_200_000_000
"""2004. The clocks of devices that were never set begin in 1970, 1993, 2000, 2002 or 2003."""
_MANY_FIELDS: Final = 64
"""Templates with more are planned when they come, and not when a small datagram of their records does."""
_MAX_HELD: Final = 256
"""Sets of one datagram that are held for their templates."""
_CHARGED_US: Final = 1_000
"""Work after which a sender's debt is looked at again within a call."""
_MAX_CHANGES: Final = 16
"""Changes of one template within one datagram; the data between two changes is decoded separately."""

TemplateChanges = dict[Key, list[tuple[int, Template | None]]]
"""By template that changed within one call: (ordinal of a set, template in force after it), the first one at -1."""
Buffer = npt.NDArray[np.uint8]
_PlainSets = dict[Template, list[tuple[int, Ints]]]
"""By template: the exporters that have it and their data sets, by ordinal."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Data sets with one template, in one buffer: of one exporter, or of several if `are_alike`."""

    row: int
    plan: DecodePlan
    ordinals: Ints
    num_rows: Ints
    are_alike: bool = False


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
        self.totals = Totals(self.tally)
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
        self._budget = WorkBudget()
        self._is_rationed = False
        self._senders: dict[int, Sender] = {}
        """see `_sender`; of this call alone"""
        self._num_plan_fields = 0
        self._template_sets = TemplateSetCache()

    @property
    def names(self) -> list[str]:
        """The names that `exporter` of a record indexes: an address for each exporter and domain."""
        return self.exporters.names.texts

    def decode(self, datagrams: Datagrams, *, rationed: bool = True) -> Records:
        """Return the flow records of datagrams in order of arrival; everything else is stored or counted.

        rationed: whether a sender that causes more work than its share is skipped for a while, see `budget`.
        """
        if not len(datagrams):
            return no_records()
        headers, sets = walk(datagrams)
        if not self.exporters.assign(headers):
            # Too many exporters for one call: decode each half by itself.
            parts = np.split(datagrams.arrived, [len(datagrams) // 2])
            of = [Datagrams(datagrams.buffer, arrived, datagrams.are_captured) for arrived in parts]
            return np.concatenate([self.decode(part, rationed=rationed).copy() for part in of])
        count_headers(self.exporters.table, headers, datagrams.arrived["length"])
        if datagrams.are_captured:
            self._believe_exporters(headers)
        self._count_troubles(headers)
        if (headers["exporter"] < 0).any():
            sets = sets[headers["exporter"][sets["datagram"]] >= 0]
        self._is_rationed = rationed
        self._senders.clear()
        self._budget.begin(int(headers["arrival_us"][-1]))
        if rationed:
            sets = self._skip_debtors(headers, sets)
        late: list[_Late] = []
        changes = self._learn_templates(datagrams.buffer, headers, sets, late)
        groups, plain = self._group_data(datagrams.buffer, headers, sets, changes, late)
        # All options have been read before any record is decoded: those that come with a template hold for it, too.
        late_groups = [
            self._group(one.row, one.template, np.arange(len(one.sets)), one.buffer, one.headers, one.sets)
            for one in late
        ]
        groups += self._join(plain, datagrams.buffer, headers, sets)
        released = [
            self._fill([group], one.buffer, one.headers, one.sets) for group, one in zip(late_groups, late, strict=True)
        ]
        records = self._fill(groups, datagrams.buffer, headers, sets, self._reused)
        check_sequences(self.exporters.table, headers)
        self.held.sweep(int(headers["arrival_us"][-1]))
        return np.concatenate([*released, records]) if released else records

    def _believe_exporters(self, headers: Structs) -> None:
        """Take the clock of exporters for right if a capture's differs by more than a day, unless it was never set."""
        off = np.abs(headers["export_us"] - headers["arrival_us"]) > _DAY_US
        off &= (headers["export_us"] >= _NEVER_SET_US) & (headers["exporter"] >= 0)
        if off.any():
            headers["is_believed"] = off
            self.tally.add("misdated_packets", int(off.sum()), self.exporters.sender(headers["exporter"][off.argmax()]))

    def _count_troubles(self, headers: Structs) -> None:
        for code in np.unique(headers["trouble"]):
            if code:
                bad = headers["trouble"] == code
                hi, lo = (int(headers[name][bad.argmax()]) for name in ("hi", "lo"))
                self.tally.add(TROUBLES[code], int(bad.sum()), address_text(hi, lo))

    # The budget of work.

    def _skip_debtors(self, headers: Structs, sets: Structs) -> Structs:
        """Return the sets of senders that may cause more work, and count the others."""
        of = headers["exporter"][sets["datagram"]]
        rows = of[:1] if len(of) and (of == of[0]).all() else np.unique(of)
        debtors = [row for row in rows.tolist() if not self._may_work(row)]
        if not debtors:
            return sets
        skipped = np.isin(of, debtors)
        self._skip(headers, sets[skipped])
        return sets[~skipped]

    def _may_work(self, row: int) -> bool:
        sender = self._sender(row)
        return not self._is_rationed or sender == FILE or self._budget.allows(sender)

    def _charge(self, row: int, work_us: int) -> None:
        if self._is_rationed:
            self._budget.charge(self._sender(row), work_us)

    def _sender(self, row: int) -> Sender:
        """Return the address of an exporter."""
        found = self._senders.get(row)
        if found is None:
            of = self.exporters.table[row]
            found = self._senders[row] = int(of["hi"]), int(of["lo"])
        return found

    def _skip(self, headers: Structs, sets: Structs) -> None:
        """Count sets that are skipped, as their senders have taken their share of the time."""
        headers["complete"][sets["datagram"]] = 0
        rows = headers["exporter"][sets["datagram"]]
        np.add.at(self.exporters.table["skipped_sets"], rows, np.uint64(1))
        self.tally.add("skipped_sets", len(sets), self.exporters.sender(int(rows[0])))

    # Templates.

    def _learn_templates(self, buffer: Buffer, headers: Structs, sets: Structs, late: list[_Late]) -> TemplateChanges:
        """Read template sets in order, and return the changes. late: held sets whose template arrived are added."""
        changes: TemplateChanges = {}
        datagram, num_left, num_changes = -1, 0, Counter[int]()
        ordinals, most = self._template_sets_of(headers, sets)
        of = sets[ordinals]
        rows, arrivals = headers["exporter"][of["datagram"]].tolist(), headers["arrival_us"][of["datagram"]].tolist()
        for ordinal, row, arrival, one, most_here in zip(
            ordinals.tolist(), rows, arrivals, of.tolist(), most.tolist(), strict=True
        ):
            at, set_id, version, begin, end = one
            if at != datagram:
                datagram, num_left, num_changes = at, most_here, Counter[int]()
            if not num_left:
                self._count_refused(row)
                continue
            if not self._may_work(row):
                self._skip(headers, sets[ordinal : ordinal + 1])
                continue
            templates, trouble = self._template_sets.read(buffer[begin:end].tobytes(), version, set_id in (1, 3))
            self._count_refused(row, len(templates[num_left:]))
            work_us = TEMPLATE_SET_US + TEMPLATE_US * len(templates)
            for id_, template in templates[:num_left]:
                if num_changes and num_changes[id_] > _MAX_CHANGES:
                    self._count_refused(row)
                    continue
                for changed, before in self._learn(row, id_, template, arrival):
                    num_changes[changed] += 1
                    changes.setdefault((row, changed), [(-1, before)]).append((ordinal, template))
                    if template is not None:
                        work_us += CHANGED_TEMPLATE_US + CHANGED_FIELD_US * len(template.fields)
                        if self.held.has((row, changed)):
                            work_us += OTHER_GROUP_US
                            late += self._take_held((row, changed), template, arrival)
            self._charge(row, work_us)
            num_left = max(num_left - len(templates), 0)
            if trouble:
                self.tally.add(trouble, 1, self.exporters.sender(row))
                if trouble != "refused_templates":
                    self._count_malformed(row, headers, datagram)
        return changes

    def _template_sets_of(self, headers: Structs, sets: Structs) -> tuple[Ints, Ints]:
        """Find the template sets to read, and count those beyond the limit of a datagram.

        Returns: their ordinals; how many templates each one's datagram may bring.
        """
        ordinals = np.flatnonzero(_are_templates(sets))
        datagrams = sets["datagram"][ordinals]
        nth = np.arange(len(ordinals)) - np.searchsorted(datagrams, datagrams)
        lengths = headers["length"][datagrams].astype(np.int64)
        refused = nth >= np.minimum(FEW_PER_DATAGRAM + lengths // BYTES_PER_SET, MAX_PER_DATAGRAM)
        if refused.any():
            for datagram, num in zip(*np.unique(datagrams[refused], return_counts=True), strict=True):
                self._count_refused(int(headers["exporter"][datagram]), int(num))
        read = ~refused & (sets["end"] > sets["begin"])[ordinals]
        most = np.minimum(FEW_PER_DATAGRAM + lengths // BYTES_PER_TEMPLATE, MAX_PER_DATAGRAM)
        return ordinals[read], most[read]

    def _learn(
        self, row: int, id_: int, template: Template | None, arrival_us: int
    ) -> Iterator[tuple[int, Template | None]]:
        """Store one template, or a withdrawal. Yields: the ids that changed, and their templates before.

        Over UDP, withdrawals are ignored (RFC 7011 section 8.4): who sends them is no exporter.
        """
        known = self.exporters.templates.get(row, {})
        if template is None:
            if self._sender(row) != FILE:
                self.tally.add("ignored_withdrawals", 1, self.exporters.sender(row))
                return
            ids = [id_] if id_ > 255 else [i for i, (old, _) in known.items() if old.is_options == (id_ == 3)]
            for withdrawn in ids:
                if (old := self.exporters.drop_template(row, withdrawn)) is not None:
                    yield withdrawn, old
            return
        before = known[id_][0] if id_ in known else None
        if before is template:
            known[id_] = template, arrival_us
            return
        full = before is None and len(known) >= self.config.max_templates
        if full or not self.exporters.put_template(row, id_, template, arrival_us):
            self._count_refused(row)
        elif before != template:
            if len(template.fields) > _MANY_FIELDS:
                self._plan(template)
            if before is not None:
                self.exporters.table["changed_templates"][row] += 1
            yield id_, before

    def _count_refused(self, row: int, num: int = 1) -> None:
        self.tally.add("refused_templates", num, self.exporters.sender(row))

    def _count_malformed(self, row: int, headers: Structs, datagram: int) -> None:
        """Count a datagram as malformed, but only once."""
        if not headers["trouble"][datagram]:
            headers["trouble"][datagram] = MALFORMED
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
            if template.is_options:
                plan = DecodePlan.of_options(template)
            else:
                plan = DecodePlan.of(template, self.config.tunnel_header)
            self._plans[template] = plan
        return plan

    # Data sets.

    def _group_data(
        self, buffer: Buffer, headers: Structs, sets: Structs, changes: TemplateChanges, late: list[_Late]
    ) -> tuple[list[_Group], _PlainSets]:
        """Group data sets by exporter and template, and read those of options.

        late: held sets whose template arrived are added. Returns: the groups; those that can be joined.
        """
        is_v5 = sets["version"] == 5
        is_data = (sets["id"] > 255) | is_v5
        self.tally.add("reserved_sets", int((~is_data & ~_are_templates(sets)).sum()))
        ordinals = np.flatnonzero(is_data & (sets["end"] > sets["begin"]))
        if not len(ordinals):
            return [], {}
        key = headers["exporter"][sets["datagram"][ordinals]].astype(np.int64) << 16 | sets["id"][ordinals]
        key[is_v5[ordinals]] = -1 << 16  # all exporters send the same records
        groups: list[_Group] = []
        plain: _PlainSets = {}
        unknown: list[int] = []
        skipped: list[int] = []
        uncounted: list[tuple[Template, Ints]] = []
        row, work_us, may_work = -1, 0, True
        known: dict[int, tuple[Template, int]] = {}
        order, numbers, bounds = _runs(key)
        for run, number in enumerate(numbers):
            id_ = number & 0xFFFF
            if number >> 16 != row or work_us > _CHARGED_US:
                if row >= 0:
                    self._charge(row, work_us)
                row, work_us = number >> 16, 0
                may_work, known = row < 0 or self._may_work(row), self.exporters.templates.get(row, {})
            if not may_work:
                skipped.append(run)
                continue
            work_us += DATA_US
            if row >= 0 and id_ not in known and (row, id_) not in changes:
                unknown.append(run)
                continue
            is_held = False
            whole = ordinals[order[bounds[run] : bounds[run + 1]]]
            for part, template, since in self._by_template(row, id_, whole, headers, sets, changes):
                if template is None:
                    is_held |= len(part) > 0 and self._hold(buffer, headers, sets.take(part))
                    continue
                if is_held:
                    work_us += OTHER_GROUP_US
                    late += self._take_held((row, id_), template, int(headers["arrival_us"][sets["datagram"][since]]))
                    is_held = False
                if not len(part):
                    continue
                plan = self._plan(template)
                if plan.is_plain:
                    plain.setdefault(template, []).append((row, part))
                elif not plan.is_flow and plan.options is None and not template.is_variable:
                    uncounted.append((template, part))
                else:
                    work_us += OTHER_GROUP_US
                    groups.append(self._group(row, template, part, buffer, headers, sets.take(part)))
        if row >= 0:
            self._charge(row, work_us)
        if unknown:
            self._hold(buffer, headers, sets.take(ordinals[_of_runs(unknown, order, bounds)]))
        if skipped:
            self._skip(headers, sets.take(ordinals[_of_runs(skipped, order, bounds)]))
        if uncounted:
            self._count_others(uncounted, headers, sets)
        return groups, plain

    def _count_others(self, uncounted: list[tuple[Template, Ints]], headers: Structs, sets: Structs) -> None:
        """Count the records of sets that hold neither flows nor options that matter."""
        nums = [len(part) for _, part in uncounted]
        least = np.repeat([template.least_length for template, _ in uncounted], nums)
        of = sets[np.concatenate([part for _, part in uncounted])]
        num_rows = (of["end"] - of["begin"]) // least
        np.add.at(headers["num_records"], of["datagram"], num_rows.astype(np.uint32))
        num_rows[np.repeat([template.is_options for template, _ in uncounted], nums)] = 0
        rows = headers["exporter"][of["datagram"]]
        np.add.at(self.exporters.table["other_records"], rows, num_rows.astype(np.uint64))
        self.tally.add("other_records", int(num_rows.sum()), self.exporters.sender(int(rows[num_rows.argmax()])))

    def _join(self, plain: _PlainSets, buffer: Buffer, headers: Structs, sets: Structs) -> Iterator[_Group]:
        """Yield groups of the sets of all exporters with one template, and alone those that name samplers."""
        for template, found in plain.items():
            plan, alike = self._plan(template), []
            for row, part in found:
                if plan.sampled_by and row >= 0 and self.exporters.samplers_of(row):
                    self._charge(row, OTHER_GROUP_US)
                    yield self._group(row, template, part, buffer, headers, sets.take(part))
                else:
                    alike.append((row, part))
            if not alike:
                continue
            part = np.sort(np.concatenate([part for _, part in alike])) if len(alike) > 1 else alike[0][1]
            group = self._group(alike[0][0], template, part, buffer, headers, sets.take(part))
            yield replace(group, are_alike=True)
            for row, _ in alike:
                if row >= 0:
                    self._charge(row, GROUP_US // len(alike))

    def _by_template(
        self, row: int, id_: int, ordinals: Ints, headers: Structs, sets: Structs, changes: TemplateChanges
    ) -> Iterator[tuple[Ints, Template | None, int]]:
        """Split the sets of one id by the template in force when each arrived.

        Yields: sets; their template, None if unknown; the template set that brought it.
        """
        if row < 0:
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
            samplers = {} if group.are_alike else self.exporters.samplers_of(group.row)
            before = int(table["disbelieved_intervals"][group.row])
            are_flows, are_new = fill_records(
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
                totals=self.totals,
                tally=self.tally,
            )
            if group.plan.sampled_by and samplers and group.row not in self.exporters.samplers:
                latest = int(records["sampling"][first[filled[-1]] + num_rows[filled[-1]] - 1])
                table["borrowed_sampling"][group.row] = latest if latest > 1 else 0
            disbelieved = int(table["disbelieved_intervals"][group.row]) - before
            self.tally.add("disbelieved_intervals", disbelieved, self.exporters.sender(group.row))
            for kept, name in ((are_flows, "event_records"), (are_new, "repeated_totals")):
                if kept is None or kept.all():
                    continue
                keep = np.ones(len(records), bool) if keep is None else keep
                rows = rows_of(first[filled], num_rows[filled])
                num = int((keep[rows] & ~kept).sum())
                keep[rows] &= kept
                if name == "event_records":
                    name = "event_records" if group.plan.has_event else "other_records"
                    table[name][group.row] += num
                table["flows"][group.row] -= num
                self.tally.add(name, num, self.exporters.sender(group.row))
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

    def _hold(self, buffer: Buffer, headers: Structs, sets: Structs) -> bool:
        """Hold sets for their templates, and return whether there was room for any."""
        headers["complete"][sets["datagram"]] = 0
        rows = headers["exporter"][sets["datagram"]]
        num_held = 0
        for row in np.unique(rows).tolist():
            every = sets[rows == row]
            nth = np.arange(len(every)) - np.searchsorted(every["datagram"], every["datagram"])
            of = every[nth < _MAX_HELD]
            begins, ends = of["begin"].tolist(), of["end"].tolist()
            num = self.held.num_with_room(row, of["end"] - of["begin"])
            for id_, datagram, begin, end in zip(
                of["id"].tolist(), of["datagram"].tolist(), begins[:num], ends[:num], strict=False
            ):
                self.held.add((row, id_), buffer[begin:end].tobytes(), headers[datagram])
            self.exporters.table["held_sets"][row] += num
            if num < len(every):
                self._count_undecoded(row, len(every) - num)
            num_held += num
        return num_held > 0

    def _count_undecoded(self, row: int, num: int) -> None:
        self.exporters.table["sets_without_template"][row] += num
        self.tally.add("sets_without_template", num, self.exporters.sender(row))

    def _take_held(self, key: Key, template: Template, now_us: int) -> list[_Late]:
        """Return the sets that were held for a template, in a list of one, or none."""
        buffer, headers, sets = self.held.take(key, template.version, now_us)
        return [_Late(key[0], template, buffer, headers, sets)] if len(sets) else []

    # State over a restart.

    def state(self) -> dict[str, Any]:
        """Return everything that decides how later datagrams are decoded, as JSON values for `restore`."""
        return {
            "exporters": self.exporters.state(),
            "held": self.held.state(),
            "totals": self.totals.state(),
            "budget": self._budget.state(),
            "counts": self.tally.as_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved `state` as if without a break, with the sampling intervals that the user sets now."""
        self.exporters.restore(state["exporters"])
        self.held.restore(state["held"])
        self.totals.restore(state.get("totals", ""))
        self._budget.restore(state["budget"])
        for name, num in state["counts"].items():
            self.tally.add(name, num)


def _runs(key: Ints) -> tuple[Ints, list[int], list[int]]:
    """Sort by key. Returns: the order; the distinct keys; where the run of each begins in that order, and the end."""
    if (key == key[0]).all():
        return np.arange(len(key)), [int(key[0])], [0, len(key)]
    order = np.argsort(key, kind="stable")
    begins = np.append(0, np.flatnonzero(np.diff(key[order])) + 1)
    return order, key[order[begins]].tolist(), [*begins.tolist(), len(key)]


def _of_runs(runs: list[int], order: Ints, bounds: list[int]) -> Ints:
    """Return the positions in some runs of `_runs`, ascending."""
    chosen = np.zeros(len(bounds) - 1, bool)
    chosen[runs] = True
    return np.sort(order[np.repeat(chosen, np.diff(bounds))])


def _are_templates(sets: Structs) -> npt.NDArray[np.bool_]:
    """Return which sets hold templates, (S,) bool."""
    v9, ipfix = sets["version"] == V9, sets["version"] == IPFIX
    found: npt.NDArray[np.bool_] = (v9 & (sets["id"] <= 1)) | (ipfix & ((sets["id"] == 2) | (sets["id"] == 3)))
    return found
