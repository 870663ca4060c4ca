"""Passwords of database URLs: hidden wherever text leaves us, by one function."""

import json
import logging
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL, make_url

from adc_features.artifact import json_text, write_json
from adc_features.errors import AdcError
from adc_features.redaction import RedactingFormatter, redacted, redacted_url, without_secrets

WORDS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8)
PASSWORDS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12
).map(lambda p: f"Zq{p}qZ")


@given(user=WORDS, password=PASSWORDS, host=WORDS, database=WORDS)
def test_a_url_is_shown_as_sqlalchemy_shows_it_with_its_password_hidden(
    user, password, host, database
):
    """Any password that SQLAlchemy can write into a URL; the rest of the URL stays."""
    url = URL.create("postgresql+psycopg", user, password, host, 5432, database)
    shown = url.render_as_string(hide_password=True)
    assert redacted_url(url.render_as_string(hide_password=False)) == shown


@given(
    user=WORDS,
    password=PASSWORDS.filter(lambda p: "@" not in p),
    key=st.sampled_from(["password", "sslpassword", "PWD", "access_token", "secret", "api_key"]),
)
def test_secret_query_values_are_hidden_and_the_others_kept(user, password, key):
    """?password= and its like, at any place of the query."""
    url = URL.create(
        "postgresql",
        user,
        password,
        "h",
        query={"connect_timeout": "5", key: password, "application_name": "adc"},
    )
    shown = make_url(redacted_url(url.render_as_string(hide_password=False)))
    assert (shown.password, dict(shown.query)) == (
        "***",
        {"connect_timeout": "5", key: "***", "application_name": "adc"},
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see sqlite:///runs/demo/catalog.db", "see sqlite:///runs/demo/catalog.db"),
        (
            "'postgresql://u:pw@h/d' and mysql://v:pw@h",
            "'postgresql://u:***@h/d' and mysql://v:***@h",
        ),
        ("postgresql:/u:pw@h/d holds no run.json", "postgresql:/u:***@h/d holds no run.json"),
        ("postgresql://h/d?user=u&password=pw#items", "postgresql://h/d?user=u&password=***#items"),
        ("postgresql://u:p@w/x?y@h/d", "postgresql://u:***@h/d"),
        ("host=h password=pw dbname=d", "host=h password=*** dbname=d"),
        ("'host=h password = pw' failed", "'host=h password = ***' failed"),
        (r"password='it\'s a pw' user=u", "password=*** user=u"),
        ("Driver=x;PWD=pw;Server=h", "Driver=x;PWD=***"),
        ("postgresql://u:p@h/d with password=pw", "postgresql://u:***@h/d with password=***"),
        ("at 12:30, http://127.0.0.1:8080/rank", "at 12:30, http://127.0.0.1:8080/rank"),
        ("no url", "no url"),
    ],
)
def test_urls_and_connection_strings_are_found_inside_any_text(text, shown):
    """What surrounds them stays, and so do URLs without a secret."""
    assert redacted(text) == shown


def test_a_drivers_message_loses_the_secrets_of_its_url():
    """The password stands there alone, decoded or not."""
    url = "postgresql://u:p%40ss@h/d?sslpassword=other"
    assert (
        without_secrets('auth failed for u with "p@ss", p%40ss or other', url)
        == 'auth failed for u with "***", *** or ***'
    )


def test_errors_logs_and_json_hide_passwords(tmp_path):
    """Each is one place that everything passes."""
    url = "postgresql://u:pw@h/d"
    assert str(AdcError(f"cannot reach {url}")) == "cannot reach postgresql://u:***@h/d"
    record = logging.LogRecord("x", logging.INFO, "", 0, "at %s", (url,), None)
    assert RedactingFormatter("%(message)s").format(record) == "at postgresql://u:***@h/d"
    write_json(tmp_path / "facts.json", {"facts": [{"url": url}]})
    assert json.loads((tmp_path / "facts.json").read_text()) == json.loads(
        json_text({"facts": [{"url": redacted(url)}]})
    )
