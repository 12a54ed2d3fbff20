"""Words of the command line become values, or an error that names the field."""

from __future__ import annotations

import pytest
import rich_click as click

from pynomaly_tasks.cli.terminal import one_line
from pynomaly_tasks.cli.values import named_values, request_object
from pynomaly_tasks.errors import InvalidRequest


def test_value_is_json_or_else_text() -> None:
    values = named_values(
        "--option", ["priority=9", "owner=me", 'tags=["a", "b"]', "gone=null", "key=a=b", "empty="]
    )

    assert values == {
        "priority": 9,
        "owner": "me",
        "tags": ["a", "b"],
        "gone": None,
        "key": "a=b",
        "empty": "",
    }


@pytest.mark.parametrize("pair", ["priority", "=9", ""])
def test_pair_without_a_name_or_a_value_is_a_usage_error(pair: str) -> None:
    with pytest.raises(click.UsageError, match="NAME=VALUE"):
        named_values("--option", [pair])


@pytest.mark.parametrize("text", ['{"name": ecod}', "[1, 2", '"open'])
def test_broken_json_names_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest, match="detector: is no JSON"):
        named_values("--edit", [f"detector={text}"])


@pytest.mark.parametrize("text", ["[1]", "3", "null", '"x"'])
def test_request_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not an object"):
        request_object(text)


@pytest.mark.parametrize("text", ["", "{", "NaN", "{'a': 1}", "\udcff"])
def test_request_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="request: is no JSON"):
        request_object(text)


def test_text_of_others_cannot_steer_the_terminal() -> None:
    assert one_line("a\x1b[31mb\r\nc\td\u202ee") == "a [31mb  c d e"
