import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynomaly_tasks.realtime.filters import FIELDS, Filter, FilterIndex
from pynomaly_tasks.realtime.position import START
from pynomaly_tasks.realtime.streams import STREAM_NAMES, EntryId
from pynomaly_tasks.realtime.update import Update, build_update

VALUES = st.sampled_from(["a", "b", "c", "dashboard", "health"])
FILTERS = st.dictionaries(st.sampled_from(FIELDS), st.lists(VALUES, max_size=3), max_size=3).map(Filter.of)
UPDATES = st.builds(
    lambda stream, keys: Update(
        number=1, position=START, stream=stream, entry=EntryId(1, 0), data=b"{}", keys=keys, state_of=None
    ),
    st.integers(0, len(STREAM_NAMES) - 1),
    st.dictionaries(
        st.sampled_from([name for name in FIELDS if name != "stream"]),
        st.lists(VALUES, min_size=1, max_size=2).map(tuple),
    ),
)
STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(["x", "y", "z"]), FILTERS), max_size=12)


@given(steps=STEPS, update=UPDATES)
def test_the_index_finds_those_whose_filters_pass_and_nobody_else(steps, update):
    index, held = FilterIndex(), []
    for adds, owner, which in steps:
        if adds:
            index.add(owner, which)
            held.append((owner, which))
        elif (owner, which) in held:
            index.remove(owner, which)
            held.remove((owner, which))

    found = list(index.owners_of(update))

    assert sorted(found) == sorted({owner for owner, which in held if which.passes(update)})


@given(steps=STEPS)
def test_an_index_whose_filters_were_all_taken_back_holds_nothing(steps):
    index = FilterIndex()
    for _, owner, which in steps:
        index.add(owner, which)
    for _, owner, which in steps:
        index.remove(owner, which)

    assert (index._takes_all, index._by_value) == ({}, {})


def test_a_filter_that_was_never_added_cannot_be_taken_back():
    with pytest.raises(KeyError):
        FilterIndex().remove("x", Filter.of({"job_id": ["a"]}))


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b'{"job_id":"a","kind":"k","event":"job.completed","dataset":"d","tags":["t",1]}',
         {"job_id": ("a",), "kind": ("k",), "event": ("job.completed",), "dataset": ("d",), "tag": ("t",)}),
        (b'{"event":"audit.x","data":{"job_id":"a","tags":[]}}', {"event": ("audit.x",), "job_id": ("a",), "tag": ()}),
        (b'{"job_id":7,"tags":"t","data":[]}', {}),
        (b'["a list"]', {}),
        (b"\xff", {}),
    ],
)  # fmt: skip
def test_what_an_update_is_about_is_read_from_its_frame(data, keys):
    update = build_update(1, 0, EntryId(1, 0), data, START)

    assert dict(update.keys) == keys


def test_a_newer_state_of_a_job_takes_the_place_of_an_older_but_of_nothing_else():
    def state_of(data, stream=0):
        return build_update(1, stream, EntryId(1, 0), data, START).state_of

    running, ended = state_of(b'{"type":"job","job_id":"a"}'), state_of(b'{"type":"job","job_id":"a","x":1}')
    others = {
        state_of(b'{"type":"anomalies","job_id":"a"}'),
        state_of(b'{"type":"job","job_id":"b"}'),
        state_of(b'{"type":"notification","job_id":"a"}', stream=1),
    }

    assert running == ended
    assert running not in others
    assert state_of(b'{"type":"notification","job_id":"a"}', stream=1) is None
