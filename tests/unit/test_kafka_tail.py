"""The partition that a key has by Kafka's own partitioner."""

from __future__ import annotations

import pytest

from perdure.chassis.kafka.tail import partition_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ],
)
def test_the_partition_is_that_of_kafka(key: str, hashed: int) -> None:
    """The values are those of ``UtilsTest.testMurmur2`` of Kafka."""
    assert partition_of(key.encode(), 12) == (hashed & 0x7FFFFFFF) % 12
