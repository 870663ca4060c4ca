"""One writer at an address: a second one is refused, a dead one forgotten. Reads:
adc_features.one_writer.
"""

import threading
import uuid
from datetime import timedelta

import pytest

from adc_features import one_writer
from adc_features.errors import InputError
from adc_features.one_writer import CLAIMS, only_writer
from adc_features.uris import open_uri


@pytest.fixture(params=["local", "memory", "s3"])
def address(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "there")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/there"
    return f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}"


def test_a_second_writer_is_refused_until_the_first_ends(address):
    """Well or not: with an error of the first the address is free again, too."""
    with only_writer(address):
        with pytest.raises(InputError, match="another process writes into"), only_writer(address):
            pass
        with only_writer(f"{address}/elsewhere"):
            pass
    with pytest.raises(ZeroDivisionError), only_writer(address):
        _ = 1 / 0
    with only_writer(address):
        pass


def test_of_many_that_begin_at_once_at_most_one_writes(bucket):
    """Eight threads on an object store: nobody is inside while another one is."""
    inside, most, refused = [0], [0], [0]
    begin = threading.Barrier(8)

    def work() -> None:
        begin.wait()
        try:
            with only_writer(f"{bucket}/race"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
        except InputError:
            refused[0] += 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 1
    assert refused[0] >= 1


def test_a_writer_that_died_is_forgotten_after_the_lease(bucket, monkeypatch):
    """A claim that nobody renews holds for the lease, and says whose it was; then it is deleted."""
    filesystem, path = open_uri(f"{bucket}/dead/{CLAIMS}/somebody")
    with filesystem.open_output_stream(path) as file:
        file.write(b'{"host": "gone", "pid": 7, "since": "2026-01-01T00:00:00+00:00"}')
    with (
        pytest.raises(InputError, match=r"process 7 on gone, since 2026.*forgotten after 120 sec"),
        only_writer(f"{bucket}/dead"),
    ):
        pass
    monkeypatch.setattr(one_writer, "LEASE", timedelta(0))
    with only_writer(f"{bucket}/dead"):
        assert filesystem.get_file_info(path).type.name == "NotFound"


def test_a_writer_that_lives_renews_its_claim(bucket, monkeypatch):
    """However long it works: its claim is put again while the block lasts."""
    monkeypatch.setattr(one_writer, "LEASE", timedelta(milliseconds=40))
    filesystem, folder = open_uri(f"{bucket}/living/{CLAIMS}")
    from pyarrow import fs

    with only_writer(f"{bucket}/living"):
        (claim,) = filesystem.get_file_info(fs.FileSelector(folder))
        filesystem.delete_file(claim.path)
        tries = (filesystem.get_file_info(claim.path).type for _ in range(1000))
        assert any(kind == fs.FileType.File or threading.Event().wait(0.01) for kind in tries)
