"""Datagrams -> records: the decoder of NetFlow v5, v9 and IPFIX, for any number of exporters at once.

    headers and sets of all datagrams -> templates, in order -> options -> data sets, all of one template together

Source: RFC 3954 (v9), RFC 7011 (IPFIX), RFC 5103 (biflows), RFC 5477 (sampling); Cisco's description of v5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt

from thalweg.errors import ConfigError
from thalweg.ingest.netflow.datagrams import MALFORMED, TROUBLES, Datagrams, walk
from thalweg.ingest.netflow.exporters import Exporters
from thalweg.ingest.netflow.filling import Ints, Room, Structs, fill_records, num_records_in, rows_of
from thalweg.ingest.netflow.held import Held, Key
from thalweg.ingest.netflow.options import ALL, MAX_READ, records_in, sampling_of, values_of
from thalweg.ingest.netflow.plan import Plan
from thalweg.ingest.netflow.sequences import check_sequences, note_headers
from thalweg.ingest.netflow.templates import IPFIX, MAX_LEARNED, V5, V9, Template, TemplateSets
from thalweg.ingest.records import RECORD, Records, address_text, no_records
from thalweg.tally import Tally

_MAX_PLANS: Final = 4_096
_MAX_PLAN_FIELDS: Final = 200_000
"""Of all plans that are kept to be used again."""
_SYSTEM_INIT: Final = (0, 160)
_MAX_CHANGES: Final = 16
"""Of one template within one datagram: the data between two of them is decoded by itself."""

Versions = dict[Key, list[tuple[int, Template | None]]]
"""Where a template changed within one call: the templates in force from which set on."""
Buffer = npt.NDArray[np.uint8]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """How much a decoder remembers. Each limit that is reached is counted.

    max_exporters: addresses, observation domains and versions. max_templates: of one exporter. max_fields: of all
    templates. max_samplers: of all exporters. hold_s, max_held_bytes: how long, and how much of, data that came before
    its template is kept for it. template_lifetime_s: a template that has not
    come again for so long is forgotten (RFC 7011 section 8.4). sampling: by exporter's address, or "*" for all: one
    packet in so many, whatever they say themselves.
    """

    max_exporters: int = 4_096
    max_templates: int = 1_024
    max_fields: int = 1_000_000
    max_samplers: int = 262_144
    hold_s: float = 60.0
    max_held_bytes: int = 4 << 20
    template_lifetime_s: float = 86_400.0
    sampling: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the bounds."""
        if min(self.max_exporters, self.max_templates, self.max_fields, self.max_samplers) < 1:
            raise ConfigError("a decoder knows at least one exporter, one template, one field and one sampler")
        if bad := [name for name, interval in self.sampling.items() if not 1 <= interval < 1 << 32]:
            raise ConfigError(f"--sampling {bad[0]}={self.sampling[bad[0]]}: one packet in 1 to 4,294,967,295")


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Data sets of one exporter with one template, of one buffer."""

    row: int
    plan: Plan
    ordinals: Ints
    num_rows: Ints


@final
class Decoder:
    """Keeps what exporters have said (templates, sampling, sequence) and makes records of what they send.

    The records do not depend on how datagrams are put together in calls but for this: what options say in a call holds
    for the whole of it. reuse: the records of a call are gone with the next call, which takes their memory.
    """

    def __init__(self, config: DecoderConfig | None = None, *, reuse: bool = False) -> None:
        self.config = config or DecoderConfig()
        self._room = Room() if reuse else None
        self.tally = Tally()
        self.held = Held(self.config.max_held_bytes, int(self.config.hold_s * 1e6), self._never_decoded)
        self._lifetime_us = int(self.config.template_lifetime_s * 1e6)
        self.exporters = Exporters(
            self.config.max_exporters,
            lifetime_us=self._lifetime_us,
            sampling=self.config.sampling,
            max_fields=self.config.max_fields,
            max_samplers=self.config.max_samplers,
            tally=self.tally,
            leaves=self.held.drop_row,
        )
        self._plans: dict[Template, Plan] = {}
        self._num_plan_fields = 0
        self._template_sets = TemplateSets()

    @property
    def names(self) -> list[str]:
        """What `RECORD.exporter` counts: an address for each exporter and domain."""
        return self.exporters.names.texts

    def decode(self, datagrams: Datagrams) -> Records:
        """Give the flow records of some datagrams, in order of arrival; all else is noted or counted."""
        if not len(datagrams):
            return no_records()
        headers, sets = walk(datagrams)
        if not self.exporters.find(headers):
            # More exporters at once than there is room for: a part of them after the other.
            parts = np.split(datagrams.arrived, [len(datagrams) // 2])
            return np.concatenate([self.decode(Datagrams(datagrams.buffer, arrived)).copy() for arrived in parts])
        note_headers(self.exporters.table, headers, datagrams.arrived["length"])
        self._count_troubles(headers)
        if (headers["exporter"] < 0).any():
            sets = sets[headers["exporter"][sets["datagram"]] >= 0]
        released, versions = self._learn_templates(datagrams.buffer, headers, sets)
        late, records = self._read_data(datagrams.buffer, headers, sets, versions)
        check_sequences(self.exporters.table, headers)
        self.held.sweep(int(headers["arrival_us"][-1]))
        return np.concatenate([*released, *late, records]) if released or late else records

    def _count_troubles(self, headers: Structs) -> None:
        for code in np.unique(headers["trouble"]):
            if code:
                bad = headers["trouble"] == code
                hi, lo = (int(headers[name][bad.argmax()]) for name in ("hi", "lo"))
                self.tally.add(TROUBLES[code], int(bad.sum()), address_text(hi, lo))

    def _learn_templates(self, buffer: Buffer, headers: Structs, sets: Structs) -> tuple[list[Records], Versions]:
        """Learn from template sets, in order. Returns: records that had waited for one; the changes."""
        released: list[Records] = []
        versions: Versions = {}
        num_left, changes = MAX_LEARNED, Counter[int]()
        for ordinal, is_first in self._ordinals_of_templates(headers, sets):
            one = sets[ordinal]
            header = headers[one["datagram"]]
            row, arrival, options = int(header["exporter"]), int(header["arrival_us"]), int(one["id"]) in (1, 3)
            if is_first:
                num_left, changes = MAX_LEARNED, Counter[int]()
            if not num_left:
                self._refuse(row)
                continue
            content = buffer[one["begin"] : one["end"]].tobytes()
            templates, trouble = self._template_sets.read(content, int(one["version"]), options)
            self._refuse(row, len(templates[num_left:]))
            for id_, template in templates[:num_left]:
                if changes[id_] > _MAX_CHANGES:
                    self._refuse(row)
                    continue
                for changed, before in self._learn(row, id_, template, arrival):
                    changes[changed] += 1
                    versions.setdefault((row, changed), [(-1, before)]).append((ordinal, template))
                    if template is not None:
                        released += self._release((row, changed), template, arrival)
            num_left = max(num_left - len(templates), 0)
            if trouble:
                self.tally.add(trouble, 1, self.exporters.sender(row))
                if trouble != "refused_templates":
                    self._note_malformed(row, headers, one)
        return released, versions

    def _ordinals_of_templates(self, headers: Structs, sets: Structs) -> Iterator[tuple[int, bool]]:
        """Give sets of templates, and whether each is its datagram's first; those beyond what one may have count."""
        ordinals = np.flatnonzero(_are_templates(sets))
        if not len(ordinals):
            return
        datagrams = sets["datagram"][ordinals]
        nth = np.arange(len(ordinals)) - np.searchsorted(datagrams, datagrams)
        for datagram, num in zip(*np.unique(datagrams[nth >= MAX_LEARNED], return_counts=True), strict=True):
            self._refuse(int(headers["exporter"][datagram]), int(num))
        few = nth < MAX_LEARNED
        yield from zip(ordinals[few].tolist(), (nth[few] == 0).tolist(), strict=True)

    def _learn(
        self, row: int, id_: int, template: Template | None, arrival_us: int
    ) -> Iterator[tuple[int, Template | None]]:
        """Take in one template, or a withdrawal. Gives: ids that mean something else now, and what they did before."""
        known = self.exporters.templates.get(row, {})
        if template is None:
            of = [id_] if id_ > 255 else [i for i, (old, _) in known.items() if old.is_options == (id_ == 3)]
            for withdrawn in of:
                if (old := self.exporters.drop_template(row, withdrawn)) is not None:
                    yield withdrawn, old
            return
        before = known[id_][0] if id_ in known else None
        full = before is None and len(known) >= self.config.max_templates
        if full or not self.exporters.put_template(row, id_, template, arrival_us):
            self._refuse(row)
        elif before != template:
            yield id_, before

    def _refuse(self, row: int, num: int = 1) -> None:
        self.tally.add("refused_templates", num, self.exporters.sender(row))

    def _note_malformed(self, row: int, headers: Structs, one: Any) -> None:
        """Count a datagram once, however much is wrong in it."""
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

    def _plan(self, template: Template) -> Plan:
        plan = self._plans.get(template)
        if plan is None:
            self._num_plan_fields += len(template.fields)
            if len(self._plans) >= _MAX_PLANS or self._num_plan_fields > _MAX_PLAN_FIELDS:
                self._plans.clear()
                self._num_plan_fields = len(template.fields)
            plan = self._plans[template] = Plan.of(template)
        return plan

    # Data.

    def _read_data(
        self, buffer: Buffer, headers: Structs, sets: Structs, versions: Versions
    ) -> tuple[list[Records], Records]:
        """Decode data sets. Returns: records whose template came after them; the others, in the order of their sets."""
        is_v5 = sets["version"] == 5
        is_data = (sets["id"] > 255) | is_v5
        self.tally.add("reserved_sets", int((~is_data & ~_are_templates(sets)).sum()))
        ordinals = np.flatnonzero(is_data & (sets["end"] > sets["begin"]))
        if not len(ordinals):
            return [], no_records()
        key = headers["exporter"][sets["datagram"][ordinals]].astype(np.int64) << 16 | sets["id"][ordinals]
        key[is_v5[ordinals]] = -1 << 16  # all exporters send the same
        groups: list[_Group] = []
        released: list[Records] = []
        for of in _by_key(key):
            first = sets[ordinals[of[0]]]
            row, id_ = int(key[of[0]] >> 16), int(first["id"])
            waiting = False
            for part, template, since in self._by_template(row, id_, ordinals[of], headers, sets, versions):
                if template is None:
                    waiting |= self._hold(row, id_, buffer, headers, sets.take(part))
                    continue
                if waiting:
                    released += self._release((row, id_), template, int(headers["arrival_us"][sets["datagram"][since]]))
                    waiting = False
                if len(part):
                    groups.append(self._group(row, template, part, buffer, headers, sets.take(part)))
        return released, self._fill(groups, buffer, headers, sets, self._room)

    def _by_template(
        self, row: int, id_: int, of: Ints, headers: Structs, sets: Structs, versions: Versions
    ) -> Iterator[tuple[Ints, Template | None, int]]:
        """Part the sets of one id by the template that was in force when each came, and tell which set it came in."""
        if sets["version"][of[0]] == 5:
            yield of, V5, 0
            return
        changes = versions.get((row, id_))
        if changes is None:
            yield of, self._template(row, id_, int(headers["arrival_us"][sets["datagram"][of[0]]])), 0
            return
        cuts = [int(np.searchsorted(of, ordinal)) for ordinal, _ in changes] + [len(of)]
        for (begin, end), (ordinal, template) in zip(pairwise(cuts), changes, strict=True):
            yield of[begin:end], template, max(ordinal, 0)

    def _group(self, row: int, template: Template, of: Ints, buffer: Buffer, headers: Structs, sets: Structs) -> _Group:
        plan = self._plan(template)
        if template.is_options:
            self._read_options(row, plan, buffer, sets)
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
        return _Group(row, plan, of, num_rows)

    def _fill(
        self, groups: list[_Group], buffer: Buffer, headers: Structs, sets: Structs, room: Room | None = None
    ) -> Records:
        """Give the records of all groups in the order of their sets."""
        num_rows = np.zeros(len(sets), np.int64)
        for group in groups:
            num_rows[group.ordinals] = group.num_rows
        last = np.cumsum(num_rows)
        first = last - num_rows
        num = int(last[-1]) if len(last) else 0
        records = np.empty(num, RECORD) if room is None else room.rows(num)
        keep: npt.NDArray[np.bool_] | None = None
        for group in groups:
            of = group.ordinals[group.num_rows > 0]
            if not len(of):
                continue
            kept = fill_records(
                group.plan, buffer, headers, sets.take(of), first[of], num_rows[of], records, self.exporters.table,
                self.exporters.samplers.get(group.row, {}), self.exporters.init_ms.get(group.row, 0),
            )  # fmt: skip
            if kept is not None and not kept.all():
                keep = np.ones(len(records), bool) if keep is None else keep
                keep[rows_of(first[of], num_rows[of])] = kept
                num = int((~kept).sum())
                table = self.exporters.table
                table["event_records"][group.row] += num
                table["flows"][group.row] -= num
                self.tally.add("event_records", num, self.exporters.sender(group.row))
        return records if keep is None else records.compress(keep)

    def _read_options(self, row: int, plan: Plan, buffer: Buffer, sets: Structs) -> None:
        """Take in what an exporter says of itself."""
        if not plan.tells:
            return
        template = plan.template
        for one in sets:
            content = buffer[one["begin"] : one["end"]].tobytes()
            for fields in islice(records_in(content, template), MAX_READ):
                values = values_of(template, fields)
                if started := values.get(_SYSTEM_INIT):
                    self.exporters.init_ms[row] = int.from_bytes(started[-8:], "big")
                found = sampling_of(values)
                if found is not None:
                    self.exporters.put_sampler(row, ALL if found.sampler is None else found.sampler, found.interval)
        self.exporters.choose_interval(row)

    # What came before its template.

    def _hold(self, row: int, id_: int, buffer: Buffer, headers: Structs, sets: Structs) -> bool:
        """Keep sets for their template. Returns: whether there was room for any."""
        headers["complete"][sets["datagram"]] = 0
        num = 0
        for one in sets:
            content = buffer[one["begin"] : one["end"]].tobytes()
            num += self.held.add((row, id_), content, headers[one["datagram"]])
        self.exporters.table["held_sets"][row] += num
        self._never_decoded(row, len(sets) - num)
        return num > 0

    def _never_decoded(self, row: int, num: int) -> None:
        self.exporters.table["sets_without_template"][row] += num
        self.tally.add("sets_without_template", num, self.exporters.sender(row))

    def _release(self, key: Key, template: Template, now_us: int) -> list[Records]:
        """Give the records that had waited for a template."""
        if not self.held.has(key):
            return []
        buffer, headers, sets = self.held.take(key, template.version, now_us)
        if not len(sets):
            return []
        group = self._group(key[0], template, np.arange(len(sets)), buffer, headers, sets)
        return [self._fill([group], buffer, headers, sets)]

    # Over a restart.

    def state(self) -> dict[str, Any]:
        """Return everything that later datagrams are read by, as JSON values."""
        return {
            "exporters": self.exporters.state(),
            "held": self.held.state(),
            "counts": self.tally.as_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave, as if there had been no break; but for sampling that the user sets now."""
        self.exporters.restore(state["exporters"])
        self.held.restore(state["held"])
        for name, num in state["counts"].items():
            self.tally.add(name, num)


def _by_key(key: Ints) -> Iterator[Ints]:
    """Give, for each different key, where it stands, in order."""
    if (key == key[0]).all():
        yield np.arange(len(key))
        return
    order = np.argsort(key, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def _are_templates(sets: Structs) -> npt.NDArray[np.bool_]:
    """Tell which sets hold templates. Returns: (S,)."""
    v9, ipfix = sets["version"] == V9, sets["version"] == IPFIX
    found: npt.NDArray[np.bool_] = (v9 & (sets["id"] <= 1)) | (ipfix & ((sets["id"] == 2) | (sets["id"] == 3)))
    return found
