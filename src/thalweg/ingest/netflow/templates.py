"""Templates, which describe the fields of records, and the parsing of template sets.

Source: RFC 3954 sections 5.2 and 6.1 (v9); RFC 7011 sections 3.4, 7 and 8 (IPFIX).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import itemgetter
from typing import Final, NamedTuple, final

VARIABLE: Final = 65_535
"""The length of a field whose length each record states (RFC 7011 section 7); H3C sends such fields in v9, too."""
_ENTERPRISE: Final = 0x8000
SCOPE: Final = -2
"""Stands for the enterprise number of a v9 scope field, which has ids of its own (RFC 3954 section 6.1)."""
V9: Final = 9
IPFIX: Final = 10

_LEAST_TEMPLATE: Final = 8
"""Bytes of a template with one field; less at the end of a set is padding, whatever it is (RFC 7011 section 3.3.1)."""
_MAX_CACHED, _MAX_CACHED_BYTES = 256, 1_500
"""Template sets that are cached, and the largest size of one."""
MAX_FIELDS: Final = 1_024
"""A template with more fields is refused: no exporter sends one, and each would cost memory."""

_MAX_EMPTY: Final = 32
"""Fields of length 0 in a template with fields of varying length: each costs time in records of a few bytes."""

MAX_PER_DATAGRAM: Final = 256
"""Templates, and sets of them, read in one datagram: each costs time, and no exporter sends as many."""
FEW_PER_DATAGRAM: Final = 16
"""A small datagram may bring as many,..."""
BYTES_PER_SET: Final = 32
"""...and a larger one a set of templates more for so many bytes..."""
BYTES_PER_TEMPLATE: Final = 16
"""...and a template more for so many."""


class Field(NamedTuple):
    """One field: enterprise number (0 for IANA), element id, and length in bytes."""

    pen: int
    id: int
    length: int


class BadTemplateError(Exception):
    """A template set is malformed or too large; the text is the name of a count (`tally.MEANINGS`)."""


@final
@dataclass(frozen=True, slots=True)
class Template:
    """The fields of one kind of record, in order; the scope fields of an options template come first.

    is_variable: whether its records differ in length. least_length: bytes of a record, or of the shortest one.
    num_empty: fields of length 0.
    """

    version: int
    fields: tuple[Field, ...]
    num_scope: int = 0
    is_variable: bool = field(init=False, repr=False, compare=False)
    least_length: int = field(init=False, repr=False, compare=False)
    num_empty: int = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute once what is asked for every data set: a template may have a thousand fields."""
        lengths = list(map(itemgetter(2), self.fields))
        num_variable = lengths.count(VARIABLE)
        object.__setattr__(self, "is_variable", num_variable > 0)
        object.__setattr__(self, "least_length", sum(lengths) - (VARIABLE - 1) * num_variable)
        object.__setattr__(self, "num_empty", lengths.count(0))
        object.__setattr__(self, "_hash", hash((self.version, self.fields, self.num_scope)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_options(self) -> bool:
        """Whether its records describe the exporter and not flows."""
        return self.num_scope > 0

    def as_list(self) -> list[int]:
        """Return the template as JSON values, for `from_list`."""
        return [self.version, self.num_scope, *chain.from_iterable(self.fields)]

    @classmethod
    def from_list(cls, values: list[int]) -> Template:
        """Make a template from the result of `as_list`."""
        version, num_scope, *numbers = values
        return cls(version, tuple(map(Field, numbers[::3], numbers[1::3], numbers[2::3])), num_scope)


V5: Final = Template(
    5,
    tuple(
        Field(0, id_, length)
        for id_, length in (
            (8, 4), (12, 4), (15, 4), (10, 2), (14, 2), (2, 4), (1, 4), (22, 4), (21, 4), (7, 2), (11, 2),
            (210, 1), (6, 1), (4, 1), (5, 1), (16, 2), (17, 2), (9, 1), (13, 1), (210, 2),
        )
    ),
)  # fmt: skip
"""The fixed record of v5, as a template."""


def read_templates(content: bytes, version: int, options: bool) -> Iterator[tuple[int, Template | None]]:
    """Yield the templates of a template set: (id, template), or (id, None) for a withdrawal.

    A template whose records would have no bytes, or over 65,535, or many empty fields beside some of varying length,
    is skipped; at any other error, reading stops.

    Raises BadTemplateError at the end if a template was skipped or malformed.
    """
    at = 0
    has_unusable = False
    while at + 4 <= len(content):
        id_, second = struct.unpack_from(">HH", content, at)
        if id_ < 256 and not (version == IPFIX and second == 0 and id_ in (2, 3)):
            if len(content) - at >= _LEAST_TEMPLATE and content[at:].strip(b"\0"):
                raise BadTemplateError("malformed_templates")
            break  # padding
        at += 4
        if version == IPFIX and second == 0:
            yield id_, None
            continue
        num_scope = 0
        if not options:
            num = second
        elif version == V9:
            if at + 2 > len(content):
                raise BadTemplateError("malformed_templates")
            (option_bytes,) = struct.unpack_from(">H", content, at)
            at += 2
            if second % 4 or option_bytes % 4:
                raise BadTemplateError("malformed_templates")
            num_scope, num = second // 4, (second + option_bytes) // 4
        else:
            if at + 2 > len(content):
                raise BadTemplateError("malformed_templates")
            num = second
            (num_scope,) = struct.unpack_from(">H", content, at)
            at += 2
            if not 0 < num_scope <= num:
                raise BadTemplateError("malformed_templates")
        if num > MAX_FIELDS:
            raise BadTemplateError("oversized_templates")
        fields, at = _fields(content, at, num, num_scope, version)
        if options and not num_scope:
            num_scope = 1  # some v9 exporters give no scope; the record is still not a flow
        template = Template(version, fields, min(num_scope, max(num, 1)) if options else 0)
        if 0 < template.least_length <= VARIABLE and not (template.is_variable and template.num_empty > _MAX_EMPTY):
            yield id_, template
        else:
            has_unusable = True
    if has_unusable:
        raise BadTemplateError("malformed_templates")


def _fields(content: bytes, at: int, num: int, num_scope: int, version: int) -> tuple[tuple[Field, ...], int]:
    if at + 4 * num > len(content):
        raise BadTemplateError("malformed_templates")
    numbers = struct.unpack_from(f">{2 * num}H", content, at)
    ids, lengths = numbers[::2], numbers[1::2]
    if version == V9 or max(ids, default=0) < _ENTERPRISE:
        num_v9_scope = min(num_scope, num) if version == V9 else 0
        pens = chain(repeat(SCOPE, num_v9_scope), repeat(0, num - num_v9_scope))
        # Built without a call of Python each: a forged template may have a thousand fields.
        return tuple(map(tuple.__new__, repeat(Field), zip(pens, ids, lengths, strict=True))), at + 4 * num
    fields = []
    for _ in range(num):
        if at + 4 > len(content):
            raise BadTemplateError("malformed_templates")
        id_, length = struct.unpack_from(">HH", content, at)
        at += 4
        pen = 0
        if id_ & _ENTERPRISE:
            if at + 4 > len(content):
                raise BadTemplateError("malformed_templates")
            (pen,) = struct.unpack_from(">I", content, at)
            at += 4
            id_ ^= _ENTERPRISE
        fields.append(Field(pen, id_, length))
    return tuple(fields), at


@final
class TemplateSetCache:
    """Reads template sets and caches the result, as exporters repeat their own sets and those of others."""

    def __init__(self) -> None:
        self._cache: dict[tuple[int, bool, bytes], tuple[tuple[tuple[int, Template | None], ...], str]] = {}

    def read(self, content: bytes, version: int, options: bool) -> tuple[tuple[tuple[int, Template | None], ...], str]:
        """Read a set as `read_templates` does, up to MAX_PER_DATAGRAM templates.

        Returns: (id, template) each; the name of a count if the set is malformed or too large, else "".
        """
        key = version, options, content
        found = self._cache.get(key)
        if found is None:
            templates: list[tuple[int, Template | None]] = []
            trouble = ""
            try:
                for one in read_templates(content, version, options):
                    if len(templates) == MAX_PER_DATAGRAM:
                        raise BadTemplateError("refused_templates")
                    templates.append(one)
            except BadTemplateError as error:
                trouble = str(error)
            found = tuple(templates), trouble
            if len(content) <= _MAX_CACHED_BYTES:
                if len(self._cache) >= _MAX_CACHED:
                    self._cache.clear()
                self._cache[key] = found
        return found
