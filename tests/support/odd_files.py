"""Files as people and programs write them, most of them a little wrong."""

from __future__ import annotations

from hypothesis import strategies as st

CELLS = [
    *("1", "2", "-3.5", "1e5", "01", "+5", "1.", "7 ", " 7", "1,5", "5%", "$3", "1_000", "0x1F", "½"),
    *("", "NA", "nan", "NaN", "-nan", "#N/A", "null", "NULL", "inf", "Infinity", "9007199254740993"),
    *("true", "False", "x", "hello", "a b", "info", "nano", "é", "q'", 'q"q', '"', "x\ny", "x\r\ny", " "),
    *("2014-07-01", "2014-07-01 10:00:00", "2014-07-01T10:00:00Z", "10:30", "epoch"),
    *("a;b", "a|b", "\t", "\u2028", "\x0b", "\x1c", "\x85", "\u00a05"),
]
VALUES = [
    *("1", "2", "-1.5", "-0", "1.0", "1e400", "9007199254740993", "99999999999999999999999"),
    *("NaN", "-Infinity", "nan", "INF", "null", "true", "false", "[1]", '{"k":1}', "{}"),
    *(
        '"nan"',
        '"a,]"',
        '"\\\\"',
        '"x"',
        '"1"',
        '""',
        '"NA"',
        '"true"',
        '"\\nan"',
        '"\\u00e9"',
        '"2014-07-01"',
        '"epoch"',
        '"infinity"',
    ),
]
NAMES = ["a", "b", "c", "A", "x y", 'n"m', "t,t", "", "1", "2"]
ODD_BYTES = [bytes([byte]) for byte in b'",\n\r\t ;|{}[]:\\0aN-.\x00\xff\xc3\x80\xed']


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """Delimited text of up to four columns and a dozen rows; about half of it is fine."""
    n_columns = draw(st.integers(1, 4))
    delimiter = draw(st.sampled_from(",,;\t|"))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    quotes_all = draw(st.booleans())
    pool = draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=5))

    def written(cell: str) -> str:
        needs_quotes = any(character in cell for character in (delimiter, '"', "\n", "\r"))
        if quotes_all or (needs_quotes and draw(st.integers(0, 9)) > 0):
            return '"' + cell.replace('"', '""') + '"'
        return cell

    def line(cells: list[str]) -> str:
        return delimiter.join(map(written, cells))

    plain_names = draw(st.integers(0, 3)) > 0
    names = NAMES[:n_columns] if plain_names else draw(st.permutations(NAMES))[:n_columns]
    rows = draw(
        st.lists(st.lists(st.sampled_from(pool), min_size=n_columns, max_size=n_columns), max_size=12)
    )
    lines = [line(names), *map(line, rows)]
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(lines)))
        odd = [
            "",
            " ",
            delimiter,
            '""',
            delimiter * n_columns,
            line(pool),
            line(["1"] * n_columns) + delimiter,
        ]
        lines.insert(at, draw(st.sampled_from(odd)))
    text = end.join(lines) + end * draw(st.sampled_from([0, 1, 1, 1, 2]))
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + text.encode()


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    """JSON lines with up to three keys."""
    keys = draw(st.permutations(["a", "b", "c", "A", "a_1", "nan", "a,}", ""]))[: draw(st.integers(1, 3))]
    pool = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=4))
    end = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    lines = []
    for _ in range(draw(st.integers(1, 8))):
        values = [f'"{key}": {draw(st.sampled_from(pool))}' for key in keys if draw(st.integers(0, 9)) > 0]
        lines.append("{" + ", ".join(values) + "}")
    if draw(st.integers(0, 3)) == 0:
        odd = ["", "  ", "\x0c", "5", "[]", "null", "{}", "{,}", '{"a":1,}', '{"a":1} x', '{"a":1}{}', "{"]
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(odd)))
    return (end.join(lines) + end * draw(st.integers(0, 1))).encode()


@st.composite
def damaged(draw: st.DrawFn, files: st.SearchStrategy[bytes]) -> bytes:
    """The same, with a byte or two replaced, put in or lost."""
    content = draw(files)
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(content)))
        n_lost = draw(st.integers(0, 1))
        content = content[:at] + draw(st.sampled_from([b"", *ODD_BYTES])) + content[at + n_lost :]
    return content
