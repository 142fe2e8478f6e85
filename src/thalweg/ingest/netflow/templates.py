"""Templates: what the fields of a set's records are, and how template sets are read.

Source: RFC 3954 sections 5.2 and 6.1 (v9); RFC 7011 sections 3.4, 7 and 8 (IPFIX).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, final

VARIABLE: Final = 65_535
"""A field's length where each record says its own (RFC 7011 section 7); H3C sends such fields in v9, too."""
_ENTERPRISE: Final = 0x8000
SCOPE: Final = -2
"""In the place of an enterprise number: a scope of v9's own numbering (RFC 3954 section 6.1)."""
V9: Final = 9
IPFIX: Final = 10

_MAX_KNOWN, _MAX_KNOWN_BYTES = 256, 1_500
"""Sets that are known again, and how long each may be."""
MAX_FIELDS: Final = 1_024
"""A template with more fields is not taken: no exporter sends one, and each would cost memory."""

MAX_LEARNED: Final = 256
"""Templates, and sets of them, that are looked at in one datagram: each costs time, and no exporter sends so many."""


class Field(NamedTuple):
    """One field: enterprise number (0 for IANA's), element, and length in bytes."""

    pen: int
    id: int
    length: int


class BadTemplateError(Exception):
    """A template set that does not say what it claims; the text is the name of a count."""


@final
@dataclass(frozen=True, slots=True)
class Template:
    """The fields of one kind of record, in order; those of an options template's scope come first."""

    version: int
    fields: tuple[Field, ...]
    num_scope: int = 0

    @property
    def is_options(self) -> bool:
        """Whether its records tell about the exporter and not about flows."""
        return self.num_scope > 0

    @property
    def is_variable(self) -> bool:
        """Whether records differ in length."""
        return any(field.length == VARIABLE for field in self.fields)

    @property
    def least_length(self) -> int:
        """Bytes of a record; the least where they differ."""
        return sum(1 if field.length == VARIABLE else field.length for field in self.fields)

    def as_list(self) -> list[list[int]]:
        """Return it as JSON values, for `from_list`."""
        return [[self.version, self.num_scope], *map(list, self.fields)]

    @classmethod
    def from_list(cls, values: list[list[int]]) -> Template:
        """Make it from what `as_list` gave."""
        (version, num_scope), *fields = values
        return cls(version, tuple(Field(*field) for field in fields), num_scope)


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
"""The record that every v5 datagram has, told as a template."""


def read_templates(content: bytes, version: int, options: bool) -> Iterator[tuple[int, Template | None]]:
    """Give the templates of a template set: (id, template), or (id, None) where one is withdrawn.

    What can be read is given first: a template without a byte is passed over, and after any other damage nothing is
    read. Raises: BadTemplateError, at the end.
    """
    at = 0
    empty = False
    while at + 4 <= len(content):
        id_, second = struct.unpack_from(">HH", content, at)
        if id_ < 256 and not (version == IPFIX and second == 0 and id_ in (2, 3)):
            if content[at:].strip(b"\0"):
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
            num_scope = 1  # v9 exporters that give no scope: the record is still no flow
        template = Template(version, fields, min(num_scope, max(num, 1)) if options else 0)
        if 0 < template.least_length <= VARIABLE:
            yield id_, template
        else:
            empty = True
    if empty:
        raise BadTemplateError("malformed_templates")


def _fields(content: bytes, at: int, num: int, num_scope: int, version: int) -> tuple[tuple[Field, ...], int]:
    if at + 4 * num > len(content):
        raise BadTemplateError("malformed_templates")
    numbers = struct.unpack_from(f">{2 * num}H", content, at)
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    if version == V9:
        found = [Field(SCOPE if i < num_scope else 0, id_, length) for i, (id_, length) in enumerate(pairs)]
        return tuple(found), at + 4 * num
    if max(numbers[::2], default=0) < _ENTERPRISE:
        return tuple([Field(0, id_, length) for id_, length in pairs]), at + 4 * num
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
class TemplateSets:
    """Reads sets of templates and knows them again: exporters repeat themselves, and each other."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool, bytes], tuple[tuple[tuple[int, Template | None], ...], str]] = {}

    def read(self, content: bytes, version: int, options: bool) -> tuple[tuple[tuple[int, Template | None], ...], str]:
        """Read a set, as `read_templates` does, but no more than MAX_LEARNED.

        Returns: (id, template) each; the name of a count, where it is bad or too long.
        """
        key = version, options, content
        found = self._known.get(key)
        if found is None:
            templates: list[tuple[int, Template | None]] = []
            trouble = ""
            try:
                for one in read_templates(content, version, options):
                    if len(templates) == MAX_LEARNED:
                        raise BadTemplateError("refused_templates")
                    templates.append(one)
            except BadTemplateError as error:
                trouble = str(error)
            found = tuple(templates), trouble
            if len(content) <= _MAX_KNOWN_BYTES:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                self._known[key] = found
        return found
