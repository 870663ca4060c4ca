"""A user who is forgotten is gone from a served log, and listed where a ranker holds them."""

import json
import shutil
from collections import Counter

import pytest
from served_world import at
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.forget import served_log as module
from adc_features.forget.served_log import expire_served, forget_served
from adc_features.forget.subject import Subject
from adc_features.served.log import ServedLog
from adc_features.served.segments import sealed_segments


def rows(log):
    """(requests, candidates) of a log: lists of dicts, by request and place."""
    segments = sealed_segments(log)
    requests = [row for one in segments for row in one.request_rows().to_pylist()]
    candidates = [row for one in segments for row in one.candidate_rows().to_pylist()]
    return requests, candidates


@pytest.fixture(scope="module")
def made_log(small_feed, tmp_path_factory):
    """A log of sixty requests in two segments; not to be written."""
    made = tmp_path_factory.mktemp("forget") / "log"
    for piece in range(2):
        kept = ServedLog(made)
        small_feed.serve(kept, small_feed.shown[30 * piece : 30 * (piece + 1)])
        kept.close()
    return made


@pytest.fixture
def log(made_log, tmp_path):
    """The log, to be written."""
    return shutil.copytree(made_log, tmp_path / "log")


def busiest(log):
    """The user with the most requests."""
    return Counter(row["user.customer_id"] for row in rows(log)[0]).most_common(1)[0][0]


class Killed(BaseException):
    """In place of a kill."""


def test_requests_of_a_user_go_with_their_candidates(log, monkeypatch):
    """All others stay as they were; a command that was killed anywhere is ended by the next."""
    user = busiest(log)
    requests, candidates = rows(log)
    theirs = {row["request_id"] for row in requests if row["user.customer_id"] == user}
    subject = Subject("customer_id", (user,))
    assert forget_served(log, subject, dry_run=True)["requests"] == len(theirs) > 1
    written = []

    def once(path, table, write=module._write):
        if written:
            raise Killed
        written.append(path)
        write(path, table)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", once)
        with pytest.raises(Killed):
            forget_served(log, subject)
    assert forget_served(log, subject) == {"requests": len(theirs), "open_segments": 0}
    assert rows(log) == (
        [row for row in requests if row["request_id"] not in theirs],
        [row for row in candidates if row["request_id"] not in theirs],
    )
    assert forget_served(log, subject)["requests"] == 0


def test_requests_that_are_too_old_go(log):
    """Segments of which nothing is left go whole."""
    requests, candidates = rows(log)
    middle = sorted(row["received"] for row in requests)[40]
    young = {row["request_id"] for row in requests if row["received"] >= middle}
    assert expire_served(log, middle)["requests"] == len(requests) - len(young)
    left = rows(log)
    assert {row["request_id"] for row in left[0]} == young
    assert left[1] == [row for row in candidates if row["request_id"] in young]
    (log / "requests" / ".open.parquet").touch()
    told = expire_served(log, at(400))
    assert told == {"requests": len(left[0]), "open_segments": 1}
    assert not list((log / "candidates").glob("*.parquet"))


def test_a_ranker_and_a_store_that_hold_a_user_are_listed(small_feed, log):
    """Vocabulary and reference rows by version, sources with rows, and Feast's own online store;
    what was found in a log is deleted meanwhile.
    """
    user = busiest(log)
    words = ["forget", "--repo", str(small_feed.repo), "--user", user, "--log", str(log)]
    done = CliRunner().invoke(application(), [*words, "--dry-run", "--json", "-"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["key"] == "customer_id"
    assert told["deleted"]["served_requests"] > 1
    kinds = Counter(one["what"] for one in told["left"])
    rankers = {one["where"] for one in told["left"] if one["what"].startswith("vocabulary")}
    assert f"small/{small_feed.bundle.promotion.ranker.name}" in rankers
    assert kinds["source of a view"] == kinds["online rows"] == 2
    words[4] = "nobody"
    told = json.loads(
        CliRunner().invoke(application(), [*words, "--dry-run", "--json", "-"]).stdout
    )
    assert told["found"] is False
    assert told["deleted"]["served_requests"] == 0
    assert [(one["what"], one["where"]) for one in told["left"]] == [("online rows", "affinity")]
