from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from tests.conftest import make_flows
from thalweg.errors import SchemaError
from thalweg.graph import AttributeScaling
from thalweg.tables import Flows


def with_counts(flows: Flows) -> Flows:
    """Return the flows with packet counts, some of them null, and a protocol."""
    num = len(flows)
    packets = pl.Series([None if i % 7 == 0 else i * i for i in range(num)], dtype=pl.UInt64)
    return Flows(
        flows.frame.with_columns(
            fwd_packets=packets,
            bwd_packets=packets.reverse(),
            protocol=pl.Series([(6, 17, 1, None)[i % 4] for i in range(num)], dtype=pl.UInt8),
        )
    )


@pytest.mark.parametrize("attributes", ["standard", "extended"])
def test_compiled_attributes_equal_their_definition_to_the_bit(attributes: str) -> None:
    flows = with_counts(make_flows(10_000))
    scaling = AttributeScaling.fit(flows[:500], "extended" if attributes == "extended" else "standard")
    made = scaling.transform(flows)
    assert made.shape == (10_000, 3 if attributes == "standard" else len(scaling.names))
    assert made.tobytes() == scaling.clip(scaling._raw(flows)).tobytes()
    assert np.abs(made).max() <= 8


def test_amounts_at_the_ends_of_their_range() -> None:
    flows = make_flows(4)
    scaling = AttributeScaling.fit(flows)
    most = pl.Series([0, 1, 2**63, 2**64 - 1], dtype=pl.UInt64)
    odd = Flows(flows.frame.with_columns(fwd_bytes=most, duration_ms=pl.Series([0.0, 1e-300, 0.5, 1e300])))
    assert scaling.transform(odd).tobytes() == scaling.clip(scaling._raw(odd)).tobytes()
    assert scaling.transform(odd[:0]).shape == (0, 3)


def test_a_column_that_the_model_needs_is_named() -> None:
    scaling = AttributeScaling.fit(with_counts(make_flows(50)), "extended")
    with pytest.raises(SchemaError, match="protocol"):
        scaling.transform(make_flows(50))
