"""A farm that reads from S3 and writes there; moto stands in for it."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs, parquet

from mindnlp_ocr.errors import PageError, SetupError
from mindnlp_ocr.farm.inputs import documents
from mindnlp_ocr.farm.opening import count_pages
from mindnlp_ocr.farm.settings import FOLDER
from mindnlp_ocr.farm.store import Store, file_system
from tests.farm.fakes import tiff
from tests.farm.one_process import farm, settings_of

OPTIONS = "?scheme=http&region=us-east-1&allow_bucket_creation=true&endpoint_override=127.0.0.1:"


@pytest.fixture(scope="module")
def options() -> Iterator[str]:
    """What follows the name of everything in the store: where it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        try:
            yield f"{OPTIONS}{server.get_host_and_port()[1]}"
        finally:
            server.stop()


@pytest.fixture(scope="module")
def bucket(options: str, tmp_path_factory: pytest.TempPathFactory) -> fs.FileSystem:
    """Two documents and something else in s3://bucket/in."""
    system, _ = file_system(f"s3://bucket{options}")
    system.create_dir("bucket")
    for name, pages in (("a.tif", 1), ("b.tif", 5)):
        content = tiff(tmp_path_factory.mktemp("in") / name, pages).read_bytes()
        with system.open_output_stream(f"bucket/in/{name}") as stream:
            stream.write(content)
    for name in ("note.md", "deep/c.tif"):
        with system.open_output_stream(f"bucket/in/{name}") as stream:
            stream.write(b"x")
    return system


def test_folders_patterns_and_documents_are_found(bucket: fs.FileSystem, options: str) -> None:
    def named(*names: str) -> list[str]:
        return [f"s3://bucket/in/{name}{options}" for name in names]

    assert list(documents([f"s3://bucket/in{options}"])) == named("a.tif", "b.tif")
    assert list(documents([f"s3://bucket/in/*.tif{options}"])) == named("a.tif", "b.tif")
    assert list(documents([f"s3://bucket/in/**/*.tif{options}"])) == named("a.tif", "b.tif", "deep/c.tif")
    assert list(documents([f"s3://bucket/in/b.tif{options}"])) == named("b.tif")
    assert list(documents([f"s3://bucket/none/*{options}"])) == [f"s3://bucket/none/*{options}"]  # it fails as a document


@pytest.mark.parametrize("format_name", [None, "text"])
def test_a_farm_reads_from_it_writes_there_and_goes_on(bucket: fs.FileSystem, options: str, format_name: str | None) -> None:
    output = f"s3://bucket/out-{format_name}{options}"
    argv = [f"s3://bucket/in{options}", "--output", output, "--pages-per-task", 2]
    argv += ["--format", format_name] if format_name else []
    assert [account.pages for account in farm(*argv)] == [2, 2, 2]
    assert farm(*argv) == []
    store = Store(output)
    assert store.names(f"{FOLDER}/started") == []
    folder = f"{FOLDER}/parts" if format_name else "pages"
    store.remove(f"{folder}/000000/000001.parquet")
    assert [(account.task, account.pages) for account in farm(*argv)] == [(1, 2)]
    if format_name:
        assert store.names("") == ["a.txt", "b.txt"]
        assert store.read("b.txt").decode().count("in/b.tif") == 5
    else:
        parts = [store.read(f"pages/000000/{name}") for name in store.names("pages/000000")]
        rows = [row for part in parts for row in parquet.read_table(io.BytesIO(part)).to_pylist()]
        assert [row["page"] for row in rows] == [1, 1, 2, 3, 4, 5]


def test_what_is_not_there_is_a_fault_of_its_page(bucket: fs.FileSystem, options: str, tmp_path: Path) -> None:
    settings, _ = settings_of("x", "--output", tmp_path)
    name = f"s3://bucket/in/none.tif{options}"
    with pytest.raises(PageError, match=r"s3://bucket/in/none.tif.* cannot be downloaded .*check its name"):
        count_pages(name, name, settings)
    with pytest.raises(SetupError, match=r"nothing://a cannot be opened .*pass a path, file:// or s3://"):
        file_system("nothing://a")
