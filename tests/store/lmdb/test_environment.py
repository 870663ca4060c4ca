"""An LMDB directory among processes: forks, growth, drops, replaced and read-only directories,
killed writers.
"""

import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import lmdb
import pytest

from adc_features.errors import ArtifactError
from adc_features.store.lmdb import environment as environment_module
from adc_features.store.lmdb.environment import environment
from adc_features.store.lmdb.file_check import check_whole
from adc_features.store.lmdb.files import DATA

MIB = 1 << 20
_SPAWN = multiprocessing.get_context("spawn")
_FORK = multiprocessing.get_context("fork")


def fill(path: Path, prefix: str, n: int = 3000, table: str = "t") -> None:
    environment(path, map_size=MIB).write(
        table, lambda txn: [txn.put(f"{prefix}{i:06}".encode(), b"x" * 1000) for i in range(n)]
    )


def count(path: Path, table: str = "t") -> int | None:
    with environment(path, map_size=MIB).reading(table) as txn:
        return None if txn is None else sum(1 for _ in txn.cursor())


def elsewhere(method, work, *arguments) -> None:
    process = method.Process(target=work, args=arguments)
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_reading_what_was_never_written_creates_nothing(tmp_path):
    """No directory, no table: absent, not an error, and the disk stays as it was."""
    path = tmp_path / "none"
    assert (count(path), environment(path, map_size=MIB).tables(), path.exists()) == (
        None,
        [],
        False,
    )
    fill(path, "a", 1)
    assert count(path, "other") is None


def test_the_map_grows_under_writers_and_readers_of_other_processes_follow(tmp_path):
    """A write larger than the map applies once, whole;
    a process with the old size reads and writes on.
    """
    fill(tmp_path, "a", 1)
    elsewhere(_SPAWN, fill, tmp_path, "b")
    assert count(tmp_path) == 3001
    fill(tmp_path, "c")
    assert count(tmp_path) == 6001


def test_a_fork_opens_its_own_environment(tmp_path):
    """Parent and child both read and write after a fork, while other threads of the parent read."""
    fill(tmp_path, "a", 10)
    assert count(tmp_path) == 10
    done = threading.Event()
    readers = [
        threading.Thread(target=lambda: [count(tmp_path) for _ in iter(done.is_set, True)])
        for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    try:
        for i in range(3):
            elsewhere(_FORK, fill, tmp_path, f"b{i}", 10)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    fill(tmp_path, "c", 10)
    assert count(tmp_path) == 50


def _drop(path: Path) -> None:
    environment(path, map_size=MIB).drop(["t", "never"])


def test_a_table_dropped_by_another_process_is_gone_and_can_come_again(tmp_path):
    """Who has it open sees it empty, and a write makes it anew; other tables stay."""
    fill(tmp_path, "a", 10)
    fill(tmp_path, "a", 5, "other")
    assert (count(tmp_path), count(tmp_path, "other")) == (10, 5)
    elsewhere(_SPAWN, _drop, tmp_path)
    assert (count(tmp_path) or 0, count(tmp_path, "other")) == (0, 5)
    fill(tmp_path, "b", 3)
    assert count(tmp_path) == 3


def test_a_directory_that_was_replaced_is_opened_anew(tmp_path):
    """A directory that was removed under a running process is an error at the next call, not an
    empty answer; restored, it is read again.
    """
    path = tmp_path / "online"
    fill(path, "a", 10)
    shutil.copytree(path, tmp_path / "copy")
    fill(path, "b", 10)
    shutil.rmtree(path)
    with pytest.raises(ArtifactError, match="was there and is gone"):
        count(path)
    shutil.copytree(tmp_path / "copy", path)
    assert count(path) == 10
    fill(path, "c", 1)
    assert count(path) == 11


def test_a_directory_that_another_thread_makes_meanwhile_was_never_gone(tmp_path, monkeypatch):
    """It is made between a reader's look at it and what the reader makes of that."""
    place = environment(tmp_path / "new", map_size=1 << 20)
    look, looks = environment_module.status_of, []

    def made_after_the_look(path, name):
        found = look(path, name)
        if not looks and path == place.path:
            looks.append(found)
            place.write("table", lambda txn: txn.put(b"key", b"value"))
        return found

    monkeypatch.setattr(environment_module, "status_of", made_after_the_look)
    with place.reading("table") as txn:
        assert (txn, looks) == (None, [None])
    with place.reading("table") as txn:
        assert bytes(txn.get(b"key")) == b"value"


def test_a_write_that_fails_changes_nothing(tmp_path):
    """An error in the middle leaves the table as it was."""
    fill(tmp_path, "a", 10)

    def half(txn):
        txn.put(b"half", b"")
        raise KeyError("half")

    with pytest.raises(KeyError):
        environment(tmp_path, map_size=MIB).write("t", half)
    assert count(tmp_path) == 10


def _beyond_the_limit(path: Path, results) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = (path / DATA).stat().st_size + MIB
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        fill(path, "b")
    except ArtifactError as error:
        results.put(str(error))


def test_a_full_disk_is_told_and_changes_nothing(tmp_path):
    """The error names the directory; what was there is there,
    and with room again the same write succeeds.
    """
    fill(tmp_path, "a", 10)
    results = _SPAWN.Queue()
    elsewhere(_SPAWN, _beyond_the_limit, tmp_path, results)
    assert "could not be written" in results.get(timeout=10)
    assert count(tmp_path) == 10
    fill(tmp_path, "b")
    assert count(tmp_path) == 3010


def _as_nobody(path: Path, results) -> None:
    os.setuid(65534)
    for work in (count, fill):
        try:
            results.put(work(path) if work is count else work(path, "n", 1))
        except ArtifactError as error:
            results.put(str(error))


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
@pytest.mark.parametrize(("lock_mode", "read"), [(0o644, "cannot be opened"), (0o666, 10)])
def test_a_directory_that_may_not_be_written_is_read_or_refused_in_words(tmp_path, lock_mode, read):
    """With a writable lock.mdb another user reads; without, readers could not register and are
    refused; writing is refused.
    """
    # pytest's own directories are closed to others
    path = Path("/tmp") / f"adc-online-{os.getpid()}-{lock_mode}"
    try:
        fill(path, "a", 10)
        (path / "lock.mdb").chmod(lock_mode)
        path.chmod(0o755)
        environment(path, map_size=MIB).close()
        results = _SPAWN.Queue()
        elsewhere(_SPAWN, _as_nobody, path, results)
        got = [results.get(timeout=10) for _ in range(2)]
        assert got[0] == read or str(read) in str(got[0])
        assert "cannot be opened" in got[1] or "could not be written" in got[1]
    finally:
        shutil.rmtree(path)


WRITER = """
import sys, pathlib
from adc_features.store.lmdb.environment import environment
env = environment(pathlib.Path(sys.argv[1]), map_size=1 << 20)
print("ready", flush=True)
for version in range(int(sys.argv[2]), 10**9):
    env.write("t", lambda txn: [txn.put(b"%06d" % i, b"%09d" % version * 20) for i in range(2000)])
"""


def test_a_killed_writer_leaves_the_state_before_or_after_a_write(tmp_path):
    """kill -9 at any moment: all rows are of one version, at least the last one seen; the next
    writer is not held up.
    """
    seen = 0
    for kill in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(seen + 1)], stdout=subprocess.PIPE
        )
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.05 + 0.07 * kill)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        with environment(tmp_path, map_size=MIB).reading("t") as txn:
            versions = {int(value[:9]) for _, value in txn.cursor()} if txn is not None else set()
        assert len(versions) <= 1
        assert max(versions, default=seen) >= seen
        seen = max(versions, default=seen)
    assert seen > 0
    assert (tmp_path / DATA).stat().st_size < 100 * MIB


CUTS = (0, 1, 100, 4096, 4196, 8191, 8192, 12288, 0.5, -1)
"""Sizes to cut a file to: bytes, a share of what it has, or so many bytes less."""


def _cut(path: Path, size: float) -> None:
    whole = os.stat(path / DATA).st_size
    os.truncate(
        path / DATA,
        int(whole * size) if 0 < size < 1 else int(size) if size >= 0 else whole + int(size),
    )


def _refused(path: Path) -> None:
    for use in (
        lambda: count(path),
        lambda: fill(path, "b", 1),
        environment(path, map_size=MIB).tables,
        lambda: _drop(path),
    ):
        with pytest.raises(ArtifactError, match=r"data\.mdb is damaged: .*move the directory away"):
            use()


def _cut_while_open(path: Path, size: float) -> None:
    assert count(path) == 3000
    _cut(path, size)
    _refused(path)


@pytest.mark.parametrize("size", CUTS)
def test_a_file_that_was_cut_off_is_refused_and_kills_nobody(tmp_path, size):
    """Wherever data.mdb ends too early, opening it, and reading and writing it while it is open,
    raise ArtifactError.
    """
    fill(tmp_path, "a")
    environment(tmp_path, map_size=MIB).close()
    shutil.copytree(tmp_path, tmp_path / "served")
    elsewhere(_SPAWN, _cut_while_open, tmp_path / "served", size)
    _cut(tmp_path, size)
    elsewhere(_SPAWN, _refused, tmp_path)


def test_a_file_that_was_cut_off_and_is_restored_is_read_again(tmp_path):
    """The error lasts as long as its cause, with the same process and the same file."""
    fill(tmp_path, "a")
    whole = (tmp_path / DATA).read_bytes()
    _cut(tmp_path, 0.5)
    _refused(tmp_path)
    (tmp_path / DATA).write_bytes(whole)
    assert count(tmp_path) == 3000


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"\0" * 5000, bytes(range(256)) * 200, b"\xde\xc0\xef\xbe" * 4096]
)
def test_a_file_that_is_not_lmdbs_is_refused(tmp_path, content):
    """An empty file, a short one and garbage of any size are ArtifactErrors, and stay as
    they were.
    """
    (tmp_path / DATA).write_bytes(content)
    _refused(tmp_path)
    assert (tmp_path / DATA).read_bytes() == content


def test_a_directory_in_the_place_of_a_file_is_refused(tmp_path):
    """A data.mdb that cannot be read as a file, and a store that is a file, are typed errors."""
    (tmp_path / "one" / DATA).mkdir(parents=True)
    (tmp_path / "two").write_text("")
    for path in (tmp_path / "one", tmp_path / "two"):
        with pytest.raises(ArtifactError):
            count(path)


def test_a_lock_file_that_was_cut_off_kills_nobody(tmp_path):
    """Readers register in lock.mdb, which is mapped too:
    cut off under a running process, it is an ArtifactError.
    """
    elsewhere(_SPAWN, _cut_lock, tmp_path)


def _cut_lock(path: Path) -> None:
    fill(path, "a", 10)
    os.truncate(path / "lock.mdb", 0)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"lock\.mdb was cut off"):
            count(path)
    os._exit(0)  # the interpreter would close the directory, which touches the lock file


def _churn(path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def change(txn) -> None:
        for _ in range(chance.randrange(1, 300)):
            key = b"%06d" % chance.randrange(2000)
            txn.put(key, b"x" * chance.choice([10, 1000, 9000]))
            if chance.random() < 0.7:
                txn.delete(key)

    for _ in range(15):
        environment(path, map_size=MIB).write(f"t{chance.randrange(3)}", change)
        if chance.random() < 0.2:
            environment(path, map_size=MIB).drop([f"t{chance.randrange(3)}"])


@pytest.mark.parametrize("seed", range(8))
def test_a_sound_file_is_never_refused(tmp_path, seed):
    """LMDB leaves pages at the end unwritten that a change took and gave back: such files are
    whole, for us and as LMDB left them.
    """
    _churn(tmp_path, seed)
    assert check_whole(tmp_path / DATA, "") <= os.stat(tmp_path / DATA).st_size
    raw = lmdb.open(str(tmp_path / "raw"), map_size=64 * MIB)
    chance = random.Random(seed)
    for _ in range(30):
        with raw.begin(write=True) as txn:
            for _ in range(chance.randrange(1, 200)):
                key = b"%06d" % chance.randrange(500)
                txn.put(key, b"x" * chance.choice([10, 9000]))
                if chance.random() < 0.6:
                    txn.delete(key)
        check_whole(tmp_path / "raw" / DATA, "")
    raw.close()
    environment(tmp_path / "raw", map_size=MIB).tables()


def test_a_new_directory_is_whole_at_once(tmp_path):
    """A new store appears by one link:
    its files are LMDB's two, and nothing is left of how it was made.
    """
    fill(tmp_path / "new", "a", 1)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [DATA, "lock.mdb"]


TWO_WRITERS = """
import sys, threading
from pathlib import Path
from adc_features.store.lmdb.environment import environment

opened = environment(Path(sys.argv[1]), map_size=1 << 26)

def work(name):
    for n in range(150):
        opened.write(name(n), lambda txn: txn.put(b"key", b"%d" % n))
        with opened.reading(name(n)) as txn:
            read.append(txn.get(b"key") == b"%d" % n)

read = []
names = (lambda n: "old", "first{}".format, "second{}".format)
threads = [threading.Thread(target=work, args=[name]) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(0 if len(read) == 450 and all(read) else "a read missed a write")
"""


def test_threads_that_open_new_tables_beside_writers_do_not_freeze_the_process(tmp_path):
    """One thread writes on, two others make a table a write: all end, and read what they wrote."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_WRITERS, str(tmp_path)], check=False, timeout=60
    )
    assert done.returncode == 0


HOLD = """
import sys
from adc_features.store.lmdb.environment import environment

def change(txn):
    print("holds", flush=True)
    sys.stdin.readline()

environment(sys.argv[1], map_size=1 << 20).write("held", change)
"""
READ = """
import sys, time
from adc_features.store.lmdb.environment import environment

store = environment(sys.argv[1], map_size=1 << 20)
began = time.monotonic()
for table in ("there", "there", "none"):
    with store.reading(table) as txn:
        print(None if txn is None else (txn.get(b"a000000")[:1], txn.stat()["entries"]))
print(time.monotonic() - began < 5)
"""


@pytest.fixture
def held(tmp_path):
    """A directory with a table `there`, while another process holds LMDB's writer lock."""
    fill(tmp_path, "a", 2, "there")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        yield tmp_path, lambda: holder.communicate("\n", timeout=30)
        if holder.poll() is None:
            holder.communicate("\n", timeout=30)
    assert holder.returncode == 0


def test_a_fresh_reader_does_not_wait_for_a_bulk_load(held):
    """A new process opens and reads a table at once while another one writes."""
    told = subprocess.run(
        [sys.executable, "-c", READ, str(held[0])],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert told.stdout.splitlines() == ["(b'x', 2)", "(b'x', 2)", "None", "True"], told.stderr


def test_a_process_that_writes_reads_new_tables_beside_a_bulk_load_of_another(held):
    """A table that it has not opened yet is read without the writer's lock, by many threads, and
    its own write takes its turn when the load is done.
    """
    path, release = held
    assert count(path, "there") == 2  # before this process writes: opened for reading alone
    writer = threading.Thread(target=fill, args=(path, "b", 3, "mine"))
    writer.start()
    time.sleep(0.2)
    found: list[int | None] = []
    readers = [
        threading.Thread(target=lambda: found.extend(count(path, "there") for _ in range(20)))
        for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(10)
    assert found == [2] * 80
    assert count(path, "none") is None
    assert writer.is_alive()
    release()
    writer.join(10)
    assert count(path, "mine") == 3
    fill(path, "c", 1, "there")
    assert count(path, "there") == 3
