"""The explorer as a service, and what it does with hostile input. Reads: adc_features.explore."""

import base64
import json
import re

import pytest
from explore_world import sids, titles_table
from starlette.testclient import TestClient
from store_world import day, generation

from adc_features import store
from adc_features.explore import app as app_module
from adc_features.explore.app import LOOPBACK, application
from adc_features.explore.building import ensure_index
from adc_features.explore.index import Index
from adc_features.explore.pages import PAGES, Explorer
from adc_features.explore.place import place_of
from adc_features.parquet_files import write_table

PATHS = (
    "/",
    "/item?id=a",
    "/codes",
    "/code?position=2&code=4",
    "/collisions",
    "/changes",
    "/decision",
)
HOSTILE = {
    "<script>alert(1)</script>": "<img src=x onerror=alert(2)>",
    "\"'><b>&amp;": "quotes \" ' ` and {{ 7 * 7 }}",
    "../../etc/passwd": "\u202egnp.exe \u2066left\u2069 \u200f",
    "id with / and ? and # and %2e": "x" * 10_000,
}


@pytest.mark.parametrize("path", PATHS)
def test_a_page_is_html_and_json_of_the_same(client, path):
    """Each page answers, names its JSON, and carries the strict policy."""
    page = client.get(path)
    assert page.status_code == 200
    (to,) = re.findall(r'<a id="json" href="([^"]+)"', page.text)
    told = client.get(to.replace("&amp;", "&"))
    assert told.status_code == 200
    assert isinstance(json.loads(told.text), dict)
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"\son\w+=|<style|javascript:|\sstyle=", page.text)


def test_links_of_a_page_lead_to_pages(client):
    """Every address that these pages name is answered, pictures too."""
    seen, waiting = set(), list(PATHS)
    while waiting:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        answer = client.get(path)
        assert answer.status_code == 200, path
        if "html" in answer.headers["content-type"] and len(seen) <= len(PATHS):
            found = re.findall(r'(?:href|src)="(/[^"]*)"', answer.text)
            waiting += [one.replace("&amp;", "&") for one in found]
    kinds = {path.partition("?")[0] for path in seen}
    assert kinds >= {"/", "/item", "/codes", "/code", "/changes", "/chart", "/style.css"}


def test_a_picture_carries_its_colours(client):
    """Drawn by the module of the reports, light and dark, without a script."""
    answer = client.get("/chart?page=code&chart=use&position=2&code=4")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.text.startswith("<svg ")
    assert "prefers-color-scheme: dark" in answer.text
    assert "<script" not in answer.text
    assert client.get("/chart?page=code&chart=nothing").status_code == 422
    assert client.get("/chart?page=nothing&chart=use").status_code == 404


def test_nothing_is_written_by_any_route(client):
    """Only GET and HEAD are taken."""
    for path in ("/", *(f"/{name}" for name in PAGES if name != "find"), "/chart", "/style.css"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert client.request(method, path).status_code in (404, 405), (method, path)
    assert client.get("/nowhere").status_code == 404
    assert client.get("/../../etc/passwd").status_code == 404
    assert client.get("/item?id=../../etc/passwd").status_code == 422
    assert client.get("/?q=" + "x" * 30_000).status_code == 422


def test_a_token_is_asked_of_every_answer(explorer):
    """As a bearer or as the password that a browser asks for; another one is refused."""
    token = "a-token-of-24-characters"
    with TestClient(application(explorer, token=token)) as client:
        assert client.get("/").status_code == 401
        assert "Basic" in client.get("/").headers["www-authenticate"]
        password = base64.b64encode(f"me:{token}".encode()).decode()
        for right in (f"Bearer {token}", f"bearer {token}", f"Basic {password}"):
            assert client.get("/", headers={"Authorization": right}).status_code == 200
        for wrong in ("Bearer no", "Basic !!", "Basic bm86bm8=", "Digest x", token):
            assert client.get("/", headers={"Authorization": wrong}).status_code == 401
        assert client.get("/nowhere").status_code == 401


def test_a_name_that_is_not_this_machine_is_refused(explorer):
    """So that no page of another site reads along under a name that it points at loopback."""
    with TestClient(application(explorer, hosts=LOOPBACK)) as client:
        assert client.get("/", headers={"Host": "localhost:8090"}).status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_hostile_ids_and_titles_are_shown_as_text(tmp_path):
    """Markup, quotes, bidirectional text, 10,000 characters and paths: found, listed and shown."""
    ids = list(HOSTILE)
    repo = tmp_path / "repo"
    store.create_repository(repo, project="hostile")
    codes = {one: (n, 1, -1) for n, one in enumerate(ids)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("explore_world.LAST_WEIGHT", dict.fromkeys(ids, 0.0))
        table = sids(codes, 10)
    store.publish(
        repo,
        generation("g1", trained_through=day(10)),
        [table],
        servable_at=[day(10)],
        computed_at=day(30),
    )
    write_table(titles_table(HOSTILE), tmp_path / "items.parquet")
    place = place_of(repo=repo, items=tmp_path / "items.parquet")
    explorer = Explorer(Index(ensure_index(place), place))
    with TestClient(application(explorer)) as client:
        pages = [client.get("/").text, client.get("/code?position=1&code=1").text]
        for one, title in HOSTILE.items():
            told = client.get("/item", params={"id": one, "format": "json"}).json()
            assert (told["id"], told["title"]) == (one, title)
            answer = client.get("/item", params={"id": one})
            assert answer.status_code == 200
            pages.append(answer.text)
            found = client.get("/", params={"q": one, "format": "json"}).json()["items"]
            assert found[0]["id"] == one
    for page in pages:
        assert not re.search(r"<(b|img|script)>|<img src=x|onerror=(?!alert\(2\)&gt;)", page)
        assert "49" not in re.findall(r"and (\d+)", page)
        # a text of another direction ends with its element
        for text in re.findall(r"[^<>]*\u202e[^<>]*", page):
            assert f"<bdi>{text}</bdi>" in page
    explorer.index.close()


def test_pictures_are_kept_of_pages_that_cannot_change(explorer, monkeypatch):
    """Those of the code book are drawn once; a decision or the health may be another next time."""
    drawn = []
    monkeypatch.setattr(app_module, "chart_svg", lambda page, *_: drawn.append(page) or "<svg/>")
    with TestClient(application(explorer)) as client:
        for page in ("codes", "health") * 2:
            assert client.get(f"/chart?page={page}&chart=any").text == "<svg/>"
    assert drawn == ["codes", "health", "health"]
