"""What the scheduler makes of workers that do not come, go, or are not ours. No worker here reads anything."""

import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from mindnlp_ocr.cli import parser
from mindnlp_ocr.cluster import gather as module
from mindnlp_ocr.cluster import pages
from mindnlp_ocr.cluster.gather import Gather, share
from mindnlp_ocr.cluster.launch import Launch
from mindnlp_ocr.cluster.wire import encode, name_of
from mindnlp_ocr.cluster.worker import Scheduler
from mindnlp_ocr.errors import SetupError
from tests.cluster.runs import free_port

PATHS = ["a.png", "b.png", "c.png", "d.png", "e.png"]


def launch(rank: int | None, port: int, seconds: float = 60.0) -> Launch:
    return Launch(rank is None, rank, 2, "127.0.0.1", port, seconds)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def join(port: int) -> Callable[[int], socket.socket]:
    """A worker that has said hello and says no more."""

    def say_hello(rank: int) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(encode({"rank": rank, "name": name_of(PATHS)}))
        return connection

    return say_hello


def page(number: int) -> dict[str, Any]:
    return {"page": number, "result": {"image": PATHS[number], "text": f"text {number}", "error": None}}


def texts(results: Iterator[dict[str, Any]]) -> list[str | None]:
    return [result["text"] for result in results]


def test_every_page_is_the_share_of_one_rank() -> None:
    for count in range(9):
        for ranks in range(1, 5):
            assert sorted(number for rank in range(ranks) for number in share(count, rank, ranks)) == list(range(count))


def test_pages_come_in_order_whoever_is_first_and_those_of_a_worker_that_hangs_up_are_named(
    port: int, join: Callable[[int], socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    with Gather(launch(None, port), PATHS) as gathered:
        first, second = join(0), join(1)
        second.sendall(encode(page(1)))
        second.close()
        first.sendall(b"".join(encode(page(number)) for number in (0, 2, 4)) + encode({"end": {}}))
        assert texts(gathered.results()) == ["text 0", "text 1", "text 2", None, "text 4"]
        assert gathered.faults == ["rank 1 died: 1 of its 2 pages were not read: d.png"]
        first.close()
    assert capsys.readouterr().err == "error: d.png: rank 1 died: read it again\n"


def test_a_worker_that_does_not_come_in_time_is_given_up(port: int, join: Callable[[int], socket.socket]) -> None:
    with Gather(launch(None, port, seconds=1.0), PATHS) as gathered:
        first = join(0)
        first.sendall(b"".join(encode(page(number)) for number in (0, 2, 4)) + encode({"end": {}}))
        assert texts(gathered.results()) == ["text 0", None, "text 2", None, "text 4"]
        assert gathered.faults[0].endswith("2 of its 2 pages were not read: b.png, d.png")
        first.close()


def test_where_one_has_died_and_nobody_is_left_the_others_are_not_waited_for_long(
    port: int, join: Callable[[int], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.5)
    with Gather(launch(None, port, seconds=600.0), PATHS) as gathered:
        start = time.monotonic()
        join(0).close()
        assert texts(gathered.results()) == [None] * 5
        assert time.monotonic() - start < 20
        assert [fault.split(":")[0][:7] for fault in gathered.faults] == ["rank 0 ", "rank 1 "]


def test_strangers_and_a_second_worker_of_one_rank_change_nothing(port: int, join: Callable[[int], socket.socket]) -> None:
    with Gather(launch(None, port), PATHS) as gathered:
        stranger = socket.create_connection(("127.0.0.1", port))
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        first, second = join(0), join(1)
        while not all(worker.connection for worker in gathered.workers):
            gathered._step()
        double = join(0)
        double.sendall(encode({"page": 0, "result": {"image": "a.png", "text": "wrong", "error": None}}))
        while not select.select([double], [], [], 0)[0]:
            gathered._step()
        first.sendall(b"".join(encode(page(number)) for number in (0, 2, 4)) + encode({"end": {}}))
        second.sendall(encode(page(1)) + encode(page(3)) + encode({"end": {}}))
        assert texts(gathered.results()) == [f"text {number}" for number in range(5)]
        assert gathered.faults == []
        assert b"is there already" in double.recv(1000)
        for connection in (stranger, first, second, double):
            connection.close()


def test_a_worker_that_sees_other_pages_is_told_so(port: int) -> None:
    with Gather(launch(None, port), PATHS) as gathered:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(encode({"rank": 0, "name": name_of(PATHS[:-1])}))
        other = socket.create_connection(("127.0.0.1", port))
        other.sendall(encode({"rank": 1, "name": name_of(PATHS[::-1])}))
        with pytest.raises(SetupError, match="it sees other pages than the scheduler"):
            list(gathered.results())
        assert b"it sees other pages" in connection.recv(1000)
        connection.close()
        other.close()


def test_a_port_in_use_and_a_scheduler_that_is_not_there_are_set_up_errors(port: int) -> None:
    with Gather(launch(None, port), PATHS), pytest.raises(SetupError, match=f"127.0.0.1:{port} cannot be listened on"):
        Gather(launch(None, port), PATHS)
    with pytest.raises(SetupError, match=f"the scheduler at 127.0.0.1:{port} cannot be reached"):
        Scheduler(launch(0, port, seconds=0.0), PATHS)


@pytest.mark.parametrize("into_a_file", [True, False])
def test_where_rank_0_is_gone_what_was_read_is_written_or_printed_by_the_scheduler(
    into_a_file: bool,
    port: int,
    join: Callable[[int], socket.socket],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--output", str(tmp_path / "pages.txt")] if into_a_file else []
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(pages.gather, parser().parse_args([*PATHS, *options]), PATHS, launch(None, port))
        until_there = Scheduler(launch(1, port), PATHS)
        join(0).close()
        for message in (page(1), page(3), {"end": {}}):
            until_there.send(message)
        assert status.result() == 1
    printed, said = capsys.readouterr()
    written = (tmp_path / "pages.txt").read_text(encoding="utf-8") if into_a_file else printed
    texts = ["", "text 1", "", "text 3", ""]
    assert written == "\n".join(f"==> {path} <==\n{text}\n" for path, text in zip(PATHS, texts, strict=True))
    assert said.endswith("error: rank 0 died: 3 of its 3 pages were not read: a.png, c.png, e.png\n")
