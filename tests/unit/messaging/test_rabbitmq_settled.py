"""How far one acknowledgement may reach: never over a delivery that is still held."""

from __future__ import annotations

import pytest

from pynomaly_tasks.messaging.backends.rabbitmq.settled import Settled


@pytest.mark.parametrize(("told", "tags", "reached"), [
    ([], {1, 2, 3}, 3),
    ([], {2, 3}, 0),
    ([], {1, 2, 4, 5}, 2),
    ([1, 2, 3], {4, 5}, 5),
    ([2], {1, 3}, 3),
    ([2], {1}, 1),
    ([3, 1], {5}, 0),
    ([3, 1], {2, 4, 6}, 4),
    ([1, 2], set(), 0),
])  # fmt: skip
def test_acknowledgement_reaches_up_to_the_first_delivery_that_is_held(
    told: list[int], tags: set[int], reached: int
) -> None:
    settled = Settled()
    settled.add(*told)

    assert settled.reach(tags) == reached


def test_what_is_never_settled_costs_no_memory_for_ever() -> None:
    settled = Settled()
    for tag in range(2, 20_000):  # the first one's lane was erased
        settled.add(tag)

    assert settled.reach({1, 20_000}) == 0
    assert len(settled._later) == 0
