import pytest

from pynomaly_tasks.realtime.streams import BEGINNING, EntryId


def test_entry_ids_are_ordered_as_numbers_and_not_as_text():
    ids = [EntryId.parse(text) for text in ("10-1", "9-9", "10-0", "9-10")]

    in_order = [str(entry_id) for entry_id in sorted(ids)]

    assert in_order == ["9-9", "9-10", "10-0", "10-1"]
    assert all(entry_id > BEGINNING for entry_id in ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5-",
        "-5",
        "5-5-5",
        "a-b",
        "5-5\n",
        " 5-5",
        "$",
        f"{2**64}-0",
        "\u0663-\u0661",
        "9" * 30 + "-1",
    ],
)
def test_what_is_no_entry_id_is_not_taken_for_one(text):
    assert EntryId.find(text) is None

    with pytest.raises(ValueError, match="is not the id of a stream entry"):
        EntryId.parse(text)
