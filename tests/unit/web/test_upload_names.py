import asyncio

import pytest

from pynomaly_tasks.errors import InvalidDataset
from pynomaly_tasks.web.uploads import Upload, remove_abandoned, safe_name

BOUNDARY = "multipart/form-data; boundary=xx"


def body_of(name, content=b"a,b\n1,2\n", field="file"):
    head = f'--xx\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--xx--\r\n"


async def in_pieces(body, size):
    for start in range(0, len(body), size):
        yield body[start : start + size]


def receive(directory, *bodies, piece_bytes=7):
    async def scenario():
        kept = []
        for body in bodies:
            with Upload(BOUNDARY, directory) as upload:
                await upload.receive(in_pieces(body, piece_bytes))
                kept.append(upload.keep())
        return kept

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("data.csv", "data.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\data\\q1 2026.csv", "q1_2026.csv"),
        ("/abs/.hidden.csv", "upload.hidden.csv"),
        ("<img src=x onerror=alert(1)>.csv", "img_src_x_onerror_alert_1.csv"),
        ("Größe.csv", "Grosse.csv"),
        ("日本語.csv.gz", "upload.csv.gz"),
        ("", "upload"),
        ("...", "upload"),
        ("a\x00b.csv", "a_b.csv"),
        ("=cmd().csv", "cmd.csv"),
        ("measured.2026-01-02.csv", "measured.2026-01-02.csv"),
    ],
)
def test_a_file_keeps_a_name_that_is_safe_everywhere(given, stored):
    assert safe_name(given) == stored


def test_a_long_name_keeps_its_suffix():
    name = safe_name("x" * 500 + ".parquet")

    assert len(name) == 120
    assert name.endswith(".parquet")


def test_an_upload_in_any_pieces_is_the_file_that_was_sent(tmp_path):
    content = bytes(range(256)) * 3_000 + b"\r\n--x\r\n"

    kept = receive(tmp_path, body_of("a.csv", content), piece_bytes=10_007)

    assert [path.read_bytes() for path in kept] == [content]


def test_a_taken_name_gets_a_number_and_nothing_is_overwritten(tmp_path):
    kept = receive(tmp_path, body_of("a.csv.gz", b"1"), body_of("a.csv.gz", b"2"), body_of("a.csv.gz", b"3"))

    assert [path.name for path in kept] == ["a.csv.gz", "a-2.csv.gz", "a-3.csv.gz"]
    assert [path.read_bytes() for path in kept] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (body_of("a.csv", field="other"), "has no file in its field 'file'"),
        (b'--xx\r\nContent-Disposition: form-data; name="file"\r\n\r\ntext\r\n--xx--\r\n', "has no file"),
        (b"not multipart at all", "cannot be read"),
        (b"", "ends before the file does"),
        (body_of("a.csv")[:-12], "ends before the file does"),
        (body_of("a.csv")[:-8] + b"\r\n" + body_of("b.csv"), "one file a request"),
    ],
)
def test_a_body_without_one_whole_file_leaves_nothing_behind(tmp_path, body, said):
    with pytest.raises(InvalidDataset, match=said):
        receive(tmp_path, body)

    assert list(tmp_path.iterdir()) == []


def test_a_content_type_without_boundary_is_refused(tmp_path):
    with pytest.raises(InvalidDataset, match="boundary"):
        Upload("multipart/form-data", tmp_path)


def test_what_a_crash_left_is_removed_and_uploads_stay(tmp_path):
    (tmp_path / ".incoming-abc").write_bytes(b"half")
    (tmp_path / "whole.csv").write_bytes(b"a\n1\n")

    remove_abandoned(tmp_path, older_than_at=0.0)
    still_there = sorted(path.name for path in tmp_path.iterdir())
    remove_abandoned(tmp_path, older_than_at=2**40)

    assert still_there == [".incoming-abc", "whole.csv"]
    assert [path.name for path in tmp_path.iterdir()] == ["whole.csv"]
