"""Records in a file: whole after every write, whatever the disk does; 0600; rotated."""

import fcntl
import json
import logging
import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muxwsgi.errors import OperatorError
from muxwsgi.records import record_file
from muxwsgi.records.record_file import RecordFile

FRAME = {"head": b"[\n", "separator": b",\n", "tail": b"\n]\n"}

Make = Callable[..., RecordFile]


@pytest.fixture(params=["lines", "framed"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A file in both forms; `read` below reads either."""
    made = []

    def open_one(name: str = "file", **options: int) -> RecordFile:
        made.append(RecordFile(str(tmp_path / name), **(FRAME if request.param == "framed" else {}), **options))  # type: ignore[arg-type]
        return made[-1]

    yield open_one
    for file in made:
        file.close()


def record(file: RecordFile, number: int, size: int = 0) -> bytes:
    return json.dumps([number, "x" * size]).encode() + (b"" if file._tail else b"\n")


def read(path: Path) -> list[int]:
    """The numbers of the records. Fails where the file is not whole."""
    text = path.read_text()
    if text.startswith("[\n"):
        return [number for number, _ in json.loads(text)]
    assert not text or text.endswith("\n")
    return [json.loads(line)[0] for line in text.splitlines()]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As a disk that is full there: the kernel takes the bytes up to `size`, and refuses the next ones."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_its_owners_alone_from_the_first_moment(make: Make, tmp_path: Path) -> None:
    """Also with a generous umask, and nobody else can have opened it before it was narrowed: it was made so."""
    before = os.umask(0)
    try:
        file = make(max_bytes=20)
        for number in range(9):
            file.write([record(file, number)])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) > 2 and set(modes.values()) == {0o600}, modes


def test_it_is_whole_after_every_write_and_when_it_is_new(make: Make, tmp_path: Path) -> None:
    file = make()
    assert read(tmp_path / "file") == []
    for number in range(5):
        file.write([record(file, 2 * number), record(file, 2 * number + 1)])
        assert read(tmp_path / "file") == list(range(2 * number + 2))


def test_it_is_continued_where_it_was_left(make: Make, tmp_path: Path) -> None:
    for number in range(3):
        file = make()
        file.write([record(file, number)])
        file.close()
    assert read(tmp_path / "file") == [0, 1, 2]


@settings(deadline=None)
@given(room=st.integers(0, 120), sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4))
@pytest.mark.parametrize("frame", [{}, FRAME], ids=["lines", "framed"])
def test_what_a_full_disk_does_not_take_leaves_no_trace(
    tmp_path_factory: pytest.TempPathFactory, frame: dict[str, bytes], room: int, sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("full") / "file"
    file = RecordFile(str(path), **frame)  # type: ignore[arg-type]
    file.write([record(file, 0)])
    written = [0]
    with no_file_larger_than(path.stat().st_size + room):
        for number in range(1, 5):
            batch = [record(file, 10 * number + at, size) for at, size in enumerate(sizes)]
            try:
                file.write(batch)
            except OSError:
                pass
            else:
                written += [10 * number + at for at in range(len(sizes))]
            assert read(path) == written
    file.write([record(file, 99)])
    assert read(path) == [*written, 99]
    file.close()


def test_a_disk_without_room_for_a_new_file_is_tried_again(make: Make, tmp_path: Path) -> None:
    file = make(max_bytes=60)
    file.write([record(file, 1, 30)])
    with no_file_larger_than(0), pytest.raises(OSError):
        file.write([record(file, 2, 30)])
    file.write([record(file, 3, 30)])
    assert read(tmp_path / "file") == [3] and read(tmp_path / "file.1") == [1]


def test_it_is_rotated_before_it_grows_too_large(make: Make, tmp_path: Path) -> None:
    file = make(max_bytes=100, keep=3)
    for number in range(40):
        file.write([record(file, number)])
    files = ["file.3", "file.2", "file.1", "file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    assert all((tmp_path / name).stat().st_size <= 100 for name in files)
    kept = [number for name in files for number in read(tmp_path / name)]
    assert kept == list(range(kept[0], 40)) and len(kept) > 20


def test_a_record_larger_than_a_file_may_be_has_one_of_its_own(make: Make, tmp_path: Path) -> None:
    file = make(max_bytes=50)
    for number, size in enumerate((1, 500, 1)):
        file.write([record(file, number, size)])
    assert [read(tmp_path / name) for name in ("file.2", "file.1", "file")] == [[0], [1], [2]]


def test_it_goes_on_in_a_new_file_after_somebody_moved_it(make: Make, tmp_path: Path) -> None:
    file = make()
    file.write([record(file, 1)])
    file.reopen()  # nobody did
    file.write([record(file, 2)])
    (tmp_path / "file").rename(tmp_path / "moved")
    file.write([record(file, 3)])
    file.reopen()
    file.write([record(file, 4)])
    assert read(tmp_path / "moved") == [1, 2, 3] and read(tmp_path / "file") == [4]


def test_where_there_can_be_no_new_file_it_goes_on_in_the_old_one(make: Make, tmp_path: Path) -> None:
    file = make()
    file.write([record(file, 1)])
    (tmp_path / "file").rename(tmp_path / "moved")
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError):
        file.reopen()
    file.write([record(file, 2)])
    assert read(tmp_path / "moved") == [1, 2]


def test_a_file_that_somebody_truncates_begins_anew(make: Make, tmp_path: Path) -> None:
    """As logrotate's copytruncate does."""
    file = make()
    file.write([record(file, 1), record(file, 2)])
    os.truncate(tmp_path / "file", 0)
    file.write([record(file, 3)])
    assert read(tmp_path / "file") == [3]


def test_a_line_that_a_crash_cut_is_not_glued_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'[1, ""]\n[2, "cu')
    file = RecordFile(str(tmp_path / "file"))
    file.write([b'[3, ""]\n'])
    assert (tmp_path / "file").read_bytes() == b'[1, ""]\n[2, "cu\n[3, ""]\n'


@pytest.mark.parametrize("found", [b'[\n[1, ""],\n[2, "cu', b"something else\n", b"x"])
def test_a_framed_file_that_is_not_whole_is_moved_aside(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "file").write_bytes(found)
    file = RecordFile(str(tmp_path / "file"), **FRAME)  # type: ignore[arg-type]
    file.write([record(file, 3)])
    assert read(tmp_path / "file") == [3] and (tmp_path / "file.1").read_bytes() == found


WRITER = """
import sys
from muxwsgi.records.record_file import RecordFile
file = RecordFile(sys.argv[1], head=b"[\\n", separator=b",\\n", tail=b"\\n]\\n", max_bytes=int(sys.argv[3]))
for number in range(100):
    file.write([b'[%s, %d]' % (sys.argv[2].encode(), number)])
"""


@pytest.mark.parametrize("max_bytes", [0, 500])
def test_several_processes_may_write_to_a_framed_file(tmp_path: Path, max_bytes: int) -> None:
    """As the workers before and after a reload do."""
    path = tmp_path / "file"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(number), str(max_bytes)]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    files = sorted(tmp_path.iterdir())
    records = [record for each in files for record in json.loads(each.read_bytes())]
    assert len(files) == (6 if max_bytes else 1), "the file, and the five old ones that are kept"
    assert len(records) == 300 or max_bytes
    for number in range(3):
        mine = [count for writer, count in json.loads(path.read_bytes()) if writer == number]
        assert mine == sorted(mine)


LINE_WRITER = """
import sys
from muxwsgi.records.record_file import RecordFile
file = RecordFile("-")
for number in range(20):
    file.write([sys.argv[1].encode() * 150_000 + b"\\n"])
"""


def test_lines_of_several_processes_in_one_pipe_are_whole() -> None:
    reading, writing = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", LINE_WRITER, letter], stdout=writing) for letter in "abc"]
    os.close(writing)
    with open(reading, "rb") as stream:
        lines = stream.read().splitlines()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert sorted(lines) == sorted(letter * 150_000 for letter in (b"a", b"b", b"c") for _ in range(20))


def test_a_process_that_holds_the_lock_does_not_hold_others_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_file, "LOCK_TIMEOUT", 0.05)
    file = RecordFile(str(tmp_path / "file"), **FRAME)  # type: ignore[arg-type]
    with (tmp_path / "file").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="another process"):
            file.write([record(file, 1)])
        with pytest.raises(OperatorError, match="another process"):
            RecordFile(str(tmp_path / "file"), **FRAME)  # type: ignore[arg-type]
    file.write([record(file, 1)])
    assert read(tmp_path / "file") == [1]


def test_a_pipe_is_written_to_and_never_rotated(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []

    def read_all() -> None:
        with open(tmp_path / "pipe", "rb") as reader:
            got.append(reader.read())

    reader = threading.Thread(target=read_all)
    reader.start()
    file = RecordFile(str(tmp_path / "pipe"), max_bytes=10)
    lines = [b"%d\n" % number for number in range(50_000)]  # more than a pipe holds
    file.write(lines)
    file.close()
    reader.join(30)
    assert got == [b"".join(lines)] and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_file_that_others_may_read_is_warned_of_and_left_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The operator, or logrotate's `create`, made it so, for whoever collects logs."""
    (tmp_path / "file").touch(0o640)
    (tmp_path / "file").chmod(0o640)
    with caplog.at_level(logging.WARNING, "muxwsgi.error"):
        RecordFile(str(tmp_path / "file")).close()
    assert "mode 640" in caplog.text and stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("path", "options", "says"),
    [
        ("no/such/folder/file", {}, "No such file"), (".", {}, "Is a directory"), ("file", {"keep": 0}, "at least one"),
        ("file", {"max_bytes": -1}, "is not a size"), ("/dev/null", FRAME, "it is not a regular file"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_file_is_the_operators_fault(tmp_path: Path, path: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        RecordFile(str(tmp_path / path), **options)  # type: ignore[arg-type]
