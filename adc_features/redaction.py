"""Database URLs without what is secret in them. Reads: text. Writes: text.

Whatever is printed, logged, raised or stored passes `redacted`: passwords and secret query values
become `***`, the rest stays, so that a reader still sees which database is meant. Who needs the
password again takes it from the command line or the environment ($ADC_CATALOG, or what the driver
reads, such as PGPASSWORD).
"""

import logging
import re
from urllib.parse import unquote, unquote_plus

HIDDEN = "***"
_URL = re.compile(r"""(?P<scheme>\b[A-Za-z][A-Za-z0-9_+.\-]*:/{1,3})(?P<rest>[^\s"'<>]*)""")
_USERINFO = re.compile(r"(?P<user>[^:/?#]*):(?P<password>.*)@", re.DOTALL)
_QUERY = re.compile(r"(?P<lead>[?&;])(?P<key>[^=&;?\s]+)=(?P<value>[^&#\s\"'<>]*)")
_WHOLE_QUERY = re.compile(
    r"(?P<lead>[?&;])(?P<key>[^=&;?]+)=(?P<value>[^&]*?)(?=&|#[\w.]*$|$)", re.DOTALL
)
_SETTING = re.compile(
    r"""(?P<lead>\b(?:password|sslpassword|passwd|pwd)\s*=\s*)(?!\*\*\*)"""
    r"""(?:'(?:\\.|[^'\\])*'|[^\s'"]+)""",
    re.IGNORECASE,
)
"""A connection string of libpq or ODBC, outside a URL."""
_SECRET_KEY = re.compile(
    r"pass|pwd|secret|token|key|credential|auth|signature|^sig$|odbc_connect", re.IGNORECASE
)


def redacted(text: str) -> str:
    """The text with the password and every secret query value of every URL in it, and every
    `password=` of a connection string, replaced by `***`.
    """
    if ":/" in text:
        text = _URL.sub(lambda found: found["scheme"] + _of(found["rest"]), text)
    return _SETTING.sub(lambda found: found["lead"] + HIDDEN, text) if "=" in text else text


def redacted_url(url: str) -> str:
    """One URL, whatever characters its password holds; text that is no URL as it is."""
    scheme, slashes, rest = url.partition("://")
    return f"{scheme}{slashes}{_of(rest, _WHOLE_QUERY)}" if slashes else redacted(url)


def without_secrets(text: str, url: str) -> str:
    """A driver's message about this URL:
    the URL's own secrets are hidden wherever they stand in it.
    """
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return redacted(text)


def _of(rest: str, query: re.Pattern[str] = _QUERY) -> str:
    """What follows `scheme://`."""
    rest = (
        _USERINFO.sub(lambda found: f"{found['user']}:{HIDDEN}@", rest, count=1)
        if _USERINFO.match(rest)
        else rest
    )
    return query.sub(
        lambda found: (
            f"{found['lead']}{found['key']}={HIDDEN}"
            if _SECRET_KEY.search(unquote(found["key"]))
            else found[0]
        ),
        rest,
    )


def _secrets(url: str) -> set[str]:
    rest = url.partition("://")[2]
    raw = [found["password"]] if (found := _USERINFO.match(rest)) else []
    raw += [
        q["value"] for q in _WHOLE_QUERY.finditer(rest) if _SECRET_KEY.search(unquote(q["key"]))
    ]
    return {
        form
        for value in raw
        for form in (value, unquote(value), unquote_plus(value))
        if form and form != HIDDEN
    }


class RedactingFormatter(logging.Formatter):
    """A log line without the secrets of the URLs in it, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))
