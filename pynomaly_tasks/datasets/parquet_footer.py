"""Names of the columns and number of rows in the footer of a Parquet file. Loads no library.

The footer is a Thrift struct in the compact protocol (github.com/apache/thrift, doc/specs), whose fields
are those of FileMetaData (github.com/apache/parquet-format, parquet.thrift).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 12
_WHOLE_NUMBERS = frozenset({4, 5, 6})
_MAX_BITS = 63
_SCHEMA, _N_ROWS = 2, 3
_NAME, _N_CHILDREN = 4, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Footer:
    """What the first fields of a footer say."""

    names: tuple[str, ...]  #: of the columns; of a nested one, the outermost
    n_rows: int


def read_footer(data: bytes) -> Footer | None:
    """data: the footer, or its start. None where that cannot be read."""
    try:
        return _read_footer(_Compact(data))
    except (IndexError, ValueError, RecursionError):
        return None


def _read_footer(compact: _Compact) -> Footer | None:
    elements: list[tuple[str, int]] = []
    for field, type_ in compact.fields():
        if field == _SCHEMA and type_ == _LIST:
            n_elements, of = compact.list_header()
            if of != _STRUCT:
                return None
            elements = [_read_element(compact) for _ in range(n_elements)]
        elif field == _N_ROWS and type_ in _WHOLE_NUMBERS:
            return Footer(names=tuple(_top_names(elements)), n_rows=compact.number())
        else:
            compact.skip(type_)
    return None


def _read_element(compact: _Compact) -> tuple[str, int]:
    """Name and number of children of one element of the schema."""
    name, n_children = "", 0
    for field, type_ in compact.fields():
        if field == _NAME and type_ == _BINARY:
            name = compact.binary().decode()
        elif field == _N_CHILDREN and type_ in _WHOLE_NUMBERS:
            n_children = compact.number()
        else:
            compact.skip(type_)
    return name, n_children


def _top_names(elements: list[tuple[str, int]]) -> Iterator[str]:
    """The children of the root; the elements are the schema's tree, each before its children."""
    at = 1
    for _ in range(elements[0][1]):
        yield elements[at][0]
        n_open = 1
        while n_open:
            n_open += elements[at][1] - 1
            at += 1
    if at != len(elements):
        raise ValueError("the schema is no tree")


class _Compact:
    """Reads Thrift's compact protocol from its start. Raises IndexError where the data ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Id and type of each field of a struct; the caller reads or skips its value in between."""
        field = 0
        while (header := self._byte()) != _STOP:
            field = field + (header >> 4) if header >> 4 else self.number()
            yield field, header & 0x0F

    def number(self) -> int:
        """A whole number, in zigzag: 0, -1, 1, -2 ..."""
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        """Bytes with their length before them."""
        n_bytes = self._varint()
        self._move(n_bytes)
        return self._data[self._at - n_bytes : self._at]

    def list_header(self) -> tuple[int, int]:
        """How many elements follow, and of which type."""
        header = self._byte()
        n_elements = header >> 4
        return (self._varint() if n_elements == 15 else n_elements), header & 0x0F

    def skip(self, type_: int) -> None:
        """Move past a value. Raises ValueError for a type that no footer holds."""
        if type_ in _WHOLE_NUMBERS:
            self._varint()
        elif type_ == _BYTE:
            self._move(1)
        elif type_ == _DOUBLE:
            self._move(8)
        elif type_ == _BINARY:
            self._move(self._varint())
        elif type_ in (_LIST, _SET):
            n_elements, of = self.list_header()
            for _ in range(n_elements):
                # In a list, true and false are bytes of their own.
                self.skip(_BYTE if of in (_TRUE, _FALSE) else of)
        elif type_ == _STRUCT:
            for _, of in self.fields():
                self.skip(of)
        elif type_ not in (_TRUE, _FALSE):
            raise ValueError(f"no type {type_}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > _MAX_BITS:
                raise ValueError("the number is too long")
        return value | byte << shift

    def _move(self, n_bytes: int) -> None:
        self._at += n_bytes
        if self._at > len(self._data):
            raise IndexError("the data ends")
