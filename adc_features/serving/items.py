"""POST /items and DELETE /items/ID. Reads: bodies. Writes: items of the live directory, answers.

Items are read and encoded beside the scoring of requests, on a thread of their own, and answered
when they are durable and served. One that is refused does not hold up the others of its request:
the answer names it with every reason. Files of the history follow within seconds.

Items are encoded for the generation that serves. When a pair of another one is promoted, its
tokenizer is opened beside and takes over together with the pair; where that cannot be, new items
are refused until a pair is promoted for which it can.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from adc_features.errors import ArtifactError, RequestError
from adc_features.live.items import ItemReceipt, Items
from adc_features.live.items_carried import carry_over
from adc_features.live.items_incoming import ItemRequest, incoming_items, items_of
from adc_features.serving.promotion import Promotion
from adc_features.serving.protocol import (
    Budget,
    HttpError,
    ServiceSettings,
    authorised,
    brief,
    json_answer,
    without_paths,
)

log = logging.getLogger(__name__)
MAX_ITEMS = 500
"""Items in one request."""
_TOLD = 20
"""Refused items that an answer explains; it counts all of them."""
_WAITING = 64
"""Requests that may wait for the encoding thread."""
_TIMEOUT_S = 30.0
"""What a request may take once it was read: hundreds of texts are embedded one by one."""
_DRAIN_AFTER_S = 5.0
"""What rows wait at most to be taken to files and, where that failed, online."""


class ItemIntake:
    """What answers POST /items.

    Parameters
    ----------
    items : Items
        Of the generation that is served.
    settings : ServiceSettings
        Bounds of requests.
    opened : callable
        Gives what encodes items of another pair, once that is promoted.

    Attributes
    ----------
    refused : str or None
        Why no items are taken.
    """

    def __init__(
        self,
        items: Items,
        settings: ServiceSettings,
        *,
        opened: Callable[[Promotion], Items],
    ) -> None:
        self.items, self._settings, self._opened = items, settings, opened
        self.refused: str | None = None
        self._bodies = Budget(32 * settings.max_body)
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="items")
        self._waiting, self._behind = 0, threading.Event()
        self._behind.set()  # what a process left that was killed
        self._closed = threading.Event()
        self.error: str | None = None
        self._drains = threading.Thread(target=self._drain, name="items-history", daemon=True)
        self._drains.start()

    async def add(self, request: Request) -> Response:
        """Keep the items of a request. Raises HttpError."""
        authorised(request, self._settings.token)
        self._check()

        def read(body: bytes) -> ItemRequest:
            sent = items_of(body)
            if len(sent) > MAX_ITEMS:
                raise HttpError(
                    422,
                    "too_many_items",
                    f"{len(sent)} items, at most {MAX_ITEMS} are taken at once; send several"
                    " requests",
                )
            return incoming_items(self.items.encoder.shape, sent)

        try:
            async with asyncio.timeout(self._settings.timeout):
                body = await self._bodies.body(request, self._settings.max_body)
        except TimeoutError as error:
            raise HttpError(
                503,
                "timeout",
                f"the items did not arrive within {self._settings.timeout} s, nothing was kept;"
                " send them again",
            ) from error
        return await self._kept(lambda: read(body))

    async def remove(self, request: Request) -> Response:
        """Remove the item that the address names. Raises HttpError."""
        authorised(request, self._settings.token)
        name: str = request.path_params["item"]

        def read() -> ItemRequest:
            shape = self.items.encoder.shape
            digits = name.removeprefix("-")
            whole = digits.isascii() and digits.isdigit() and len(name) < 21
            one: Any = int(name) if shape.id_type == "int64" and whole else name
            asked = incoming_items(shape, [{"id": one, "removed": True}])
            if asked.faults:
                raise RequestError("; ".join(asked.faults[0].reasons))
            return asked

        return await self._kept(read)

    async def _kept(self, read: Callable[[], ItemRequest]) -> Response:
        if self._waiting >= _WAITING:
            raise HttpError(503, "busy", f"{self._waiting} requests of items wait; try again later")
        self._waiting += 1
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                loop = asyncio.get_running_loop()
                asked, receipt = await loop.run_in_executor(self._encoding, self._commit, read)
        except TimeoutError as error:
            raise HttpError(
                503,
                "timeout",
                f"not served within {_TIMEOUT_S:g} s; send the same items again: one that was kept"
                " meanwhile is described anew",
            ) from error
        except ArtifactError as error:
            log.error("stage=items error=%s", error)
            raise HttpError(
                507,
                "not_kept",
                "the live directory cannot be written, nothing was kept; the service's log says"
                " why: make room, and send the items again",
            ) from error
        finally:
            self._waiting -= 1
        return json_answer(_told(asked, receipt))

    def _commit(self, read: Callable[[], ItemRequest]) -> tuple[ItemRequest, ItemReceipt]:
        self._check()
        asked = read()
        receipt = self.items.commit(asked.changes)
        if asked.changes:
            try:
                self.items.put_online()
                self.error = None
            except Exception as error:  # committed and served all the same; tried again
                self._failed(error)
            self._behind.set()
        return asked, receipt

    # ---- promotions

    def beside(self, promotion: Promotion) -> Callable[[], None]:
        """Open what encodes items of a pair, if it is of another generation than the one before.

        Takes seconds then. What is returned lets it take over, or lets items be refused; the pair
        itself is served in either case.
        """
        live = self.items.live
        here = promotion.repository == self.items.repo, promotion.generation == live.id
        if all(here) and promotion.codebook_hash == live.codebook_hash:
            return partial(self._take_over, self.items, None)
        try:
            items = self._opened(promotion)
            carry_over(self.items, items)  # most of them, while the pair before still serves
            return partial(self._take_over, items, None)
        except Exception as error:  # whatever it is, requests are ranked by the new pair
            log.warning("stage=items generation=%s refused=%s", promotion.generation, error)
            told = without_paths(str(error)) or type(error).__name__
            return partial(self._take_over, self.items, told)

    def _take_over(self, items: Items, refused: str | None) -> None:
        """After what is being encoded, before what waits."""
        self._encoding.submit(self._swap, items, refused).result()

    def _swap(self, items: Items, refused: str | None) -> None:
        if items is not self.items:
            self._follow()  # what the generation before has left to be taken to its files
            try:
                carry_over(self.items, items)  # what came while the others were encoded
            except Exception as error:  # requests are ranked by the new pair all the same
                self._failed(error)
            self._behind.set()
            log.info("stage=items generation=%s before=%s", items.live.id, self.items.live.id)
        self.items, self.refused = items, refused

    def _check(self) -> None:
        if self.refused is not None:
            raise HttpError(
                503,
                "other_generation",
                f"new items are not taken: another pair was promoted, and {self.refused}; promote a"
                " pair whose tokenizer is there, or add items with `adc ingest --items`",
            )

    def facts(self) -> dict[str, Any]:
        """What /readyz tells: the generation, why nothing is taken, what did not follow."""
        return {
            "generation": self.items.live.id,
            "refused": self.refused,
            "behind": None if self.error is None else "not written",
        }

    def _drain(self) -> None:
        while not self._closed.wait(_DRAIN_AFTER_S):
            if self._behind.is_set():
                self._behind.clear()
                self._follow()

    def _follow(self) -> None:
        try:
            self.items.follow()
            self.error = None
        except Exception as error:  # whatever it is: rows wait in the directory until it succeeds
            self._behind.set()
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if self.error != str(error):
            log.exception("stage=items error=%s", error)
        self.error = str(error)

    def close(self) -> None:
        """Take what waits to its files."""
        self._encoding.shutdown(wait=True)
        self._closed.set()
        self._drains.join()
        self._follow()


def _told(asked: ItemRequest, receipt: ItemReceipt) -> dict[str, Any]:
    codes = receipt.codes
    coded: list[dict[str, Any]] = []
    if codes is not None:
        columns = (codes.item_ids, codes.sid, codes.sid_weight, codes.found)
        names = ("id", "sid", "sid_weight", "found")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        coded = [dict(zip(names, row, strict=True)) for row in rows]
    return {
        "added": receipt.added,
        "removed": receipt.removed,
        "refused": len(asked.faults),
        "published": receipt.published,
        "items": coded,
        "reasons": [
            {
                "place": fault.place,
                "id": fault.id if not isinstance(fault.id, str) else brief(fault.id),
                "reasons": [brief(reason) for reason in fault.reasons[:_TOLD]],
            }
            for fault in asked.faults[:_TOLD]
        ],
    }
