"""Datagrams made by hand that reach every part of the decoder, to be damaged."""

from __future__ import annotations

from tests.ingest.netflow.messages import (
    FLOW,
    TIMED,
    VARIABLE,
    fields_of,
    flow,
    ip,
    ipfix,
    set_of,
    timed,
    v5,
    v5_record,
    v9,
    variable,
    withdrawal,
)

_VARYING = ((8, 4), (82, VARIABLE), (12, 4), (1, VARIABLE))
_EVENT = (*FLOW, (233, 1), (239, 1), (1, 4, 29305), (34, 4), (305, 4), (306, 4), (48, 1), (10, 2))

_FRAME = (
    bytes(12) + b"\x81\0\0\5\x88\x47\0\1\1\x40\x45\0\0\x34" + bytes(5) + b"\x2f\0\0" + ip("10.1.0.1") * 2
    + b"\0\0\x08\0\x45\0\0\x1c" + bytes(5) + b"\x11\0\0" + ip("10.1.0.2") * 2 + bytes(8)
)  # fmt: skip

SEEDS: tuple[bytes, ...] = (
    v5(*[v5_record()] * 30, sampling=0x4064),
    v9(templates={256: FLOW, 257: TIMED}, data={256: [flow()] * 3, 257: [timed()] * 3}),
    v9(
        options={258: (((1, 4),), ((34, 4), (35, 1))), 259: (((2, 4),), ((48, 1), (50, 4), (41, 0)))},
        data={258: [bytes(4) + b"\0\0\0\x64\2"] * 3, 259: [b"\0\0\0\3\1\0\0\0\x0a"] * 3},
    ),
    v9(data={256: [flow()] * 9, 300: [b"?" * 40]}),
    ipfix(templates={256: (*FLOW, (22, 4), (21, 4)), 260: _VARYING}, data={256: [flow() + bytes(8)] * 2}),
    ipfix(
        templates={260: _VARYING},
        data={260: [ip("10.1.0.1") + variable(b"eth0") + ip("10.2.0.2") + variable(b"\7" * 9, long=True)] * 3},
    ),
    ipfix(templates={261: _EVENT}, data={261: [flow() + bytes(24)] * 3}),
    ipfix(
        options={262: (((144, 4),), ((160, 8), (302, 1), (309, 2), (310, 4))), 263: (((10, 4),), ((311, 8),))},
        data={262: [bytes(18)] * 3, 263: [bytes(4) + b"\x3f\x50" + bytes(6)]},
    ),
    v9(templates={264: (*FLOW, *FLOW)}, data={264: [flow() + flow(), flow() + bytes(21)] * 2}),
    ipfix(templates={265: (*_VARYING, *_VARYING, (22, 4), (21, 4))}, data={265: [bytes(60)]}),
    ipfix(templates={266: ((312, 2), (315, VARIABLE))}, data={266: [b"\0\x46" + variable(_FRAME)] * 3}),
    v9(templates={267: ((104, 48), (102, 2), (408, 2))}, data={267: [_FRAME[:48] + bytes(4)] * 3}),
    ipfix(templates={268: ((8, 4), (12, 4), (4, 1), (1, 4), (314, 8))}, data={268: [ip("10.1.0.1") * 2 + bytes(13)]}),
    ipfix(set_of(2, withdrawal(256)), set_of(3, withdrawal(3)), set_of(2, withdrawal(2))),
    ipfix(set_of(2, b"\1\0\xff\xff" + fields_of([(1, 0)] * 9)), templates={400: ((1, 0),), 401: ((1, VARIABLE),)}),
    ipfix(set_of(401, bytes(1_000)), data={402: [bytes(1_000)]}),
    v9(set_of(0, b"\1\0\0\1\0\1\0\1"), set_of(256, b"\1" * 1_000)),
)  # fmt: skip
