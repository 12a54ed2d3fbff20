import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.realtime.history import History, before
from pynomaly_tasks.realtime.position import START, Position
from pynomaly_tasks.realtime.streams import BEGINNING, EntryId
from pynomaly_tasks.realtime.update import build_update

ENTRIES = st.builds(EntryId, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
POSITIONS = st.tuples(ENTRIES, ENTRIES, ENTRIES, ENTRIES).map(Position)


@given(position=POSITIONS)
def test_a_position_is_read_back_as_it_was_given(position):
    text = str(position)

    assert Position.find(text) == position
    assert len(text) <= 128


@given(text=st.text(max_size=40) | st.text("0123456789abcz.-", max_size=40))
def test_any_other_text_is_no_position_or_spells_one(text):
    found = Position.find(text)

    assert found is None or Position.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "1-0", "0.0.0", "0.0.0.0.0", "0.0.0.-", "0.0.0.A", "0.0.0. 1", "z" * 200,
                                  "0.0.0.zzzzzzzzzzzzzz", "0.0.0.3w5e11264sgsg"])  # fmt: skip
def test_what_is_no_position_is_refused(text):
    assert Position.find(text) is None
    with pytest.raises(ValueError, match="not the id"):
        Position.parse(text)


@given(one=POSITIONS, other=POSITIONS)
def test_who_has_seen_what_either_has_is_behind_neither(one, other):
    joined = one.joined(other)

    assert all(a >= b for a, b in zip(joined.entries, one.entries, strict=True))
    assert joined == other.joined(one)
    assert joined.joined(one) == joined


def update(number):
    return build_update(number, 0, EntryId(number, 0), b"{}", START)


def entries(updates):
    return [update.entry.at_ms for update in updates]


def history_of(*numbers, max_entries=5, newest=BEGINNING, is_whole=True):
    history = History(max_entries)
    history.load([update(number) for number in numbers], newest, is_whole=is_whole)
    return history


def test_a_history_gives_what_is_later():
    history = history_of(1, 2, 3)

    assert entries(history.after(EntryId(1, 0))) == [2, 3]
    assert history.after(EntryId(3, 0)) == []
    assert history.newest == EntryId(3, 0)


def test_a_history_knows_how_far_back_it_reaches():
    whole, cut = history_of(5, 6), history_of(5, 6, is_whole=False)

    assert whole.reaches_back_to(BEGINNING)
    assert not cut.reaches_back_to(BEGINNING)
    assert not cut.reaches_back_to(EntryId(4, 0))
    assert cut.reaches_back_to(before(EntryId(5, 0)))
    assert cut.reaches_back_to(EntryId(5, 0))


def test_a_history_that_is_full_forgets_its_oldest_and_says_so():
    history = history_of(1, 2, 3, max_entries=3)
    history.add(update(4))

    assert entries(history.after(BEGINNING)) == [2, 3, 4]
    assert history.reaches_back_to(EntryId(1, 0))
    assert not history.reaches_back_to(BEGINNING)


def test_a_history_that_lost_its_stream_reaches_back_to_nothing_before():
    history = history_of(1, 2)
    history.lose(EntryId(7, 0))
    history.add(update(9))

    assert not history.reaches_back_to(EntryId(2, 0))
    assert history.reaches_back_to(EntryId(7, 0))
    assert entries(history.after(EntryId(7, 0))) == [9]


def test_a_stream_begun_anew_on_a_clock_that_was_set_back_is_followed_all_the_same():
    history = history_of(100)
    history.lose(EntryId(100, 0))
    history.add(update(50))

    assert history.newest == EntryId(50, 0)
    assert entries(history.after(BEGINNING)) == [50]


def test_the_id_before_the_first_of_a_millisecond_is_the_last_of_the_one_before():
    assert before(EntryId(5, 0)) == EntryId(4, 2**64 - 1)
    assert before(EntryId(5, 3)) == EntryId(5, 2)
