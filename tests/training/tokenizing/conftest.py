"""A feed whose products have codes, made once; tests read it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from coded_feed import LATER, feast_apply, make_coded_feed, materialize
from feed_world import START, Feed

from training.ranker.workflow import promote_ranker, train_rankers
from training.tokenizing.settings import TokenizeSettings
from training.tokenizing.sources import ItemSources
from training.tokenizing.workflow import add_to_service, tokenize

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FAST = TokenizeSettings(steps=80, codebook_size=4)


@dataclass(frozen=True)
class Coded:
    """The feed after `tokenize`, `feast apply`, training and promotion, and what they told."""

    feed: Feed
    first: dict
    later: dict
    judged: dict
    promoted: dict

    @property
    def repo(self):
        """The repository."""
        return self.feed.folder


@pytest.fixture(scope="session")
def coded(tmp_path_factory):
    """Codes as of the first day and as of five days after LATER; two rankers, one with codes."""
    from adc_features.store.services.rankers import declared_rankers
    from training.ranker.fitting import TrainSettings

    feed = make_coded_feed(tmp_path_factory.mktemp("coded"), rows=8_000)
    repo = feed.folder
    feast_apply(repo)
    sources = ItemSources(vectors=["looks__vector"])
    first = tokenize(
        repo, sources, times=[START + timedelta(days=1)], computed_at=NOW, settings=FAST
    )
    added = add_to_service(repo, "plain_v1", "g1")
    later = tokenize(
        repo, sources, times=[LATER + timedelta(days=5)], computed_at=NOW, settings=FAST
    )
    feast_apply(repo)
    materialize(repo, feed.end)
    judged = train_rankers(
        repo,
        declared_rankers(repo),
        feed.labels,
        at=NOW,
        settings=TrainSettings(seeds=1, quick=True),
    )
    promoted = promote_ranker(repo, "coded", at=NOW)
    return Coded(feed, first | added, later, judged.to_dict(), promoted)


@pytest.fixture(scope="session")
def applied(tmp_path_factory):
    """A small feed that is applied and has no codes; tests that write copy nothing into it."""
    feed = make_coded_feed(tmp_path_factory.mktemp("applied"), rows=800, products=40)
    feast_apply(feed.folder)
    return feed
