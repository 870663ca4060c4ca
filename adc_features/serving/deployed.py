"""What a service answers with at one moment: the opened pair and the opened variants beside it.
Reads: promotions. Writes: nothing.

A request takes one `Deployed` from its start to its end; a promotion or a variant that starts or
ends makes another.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from adc_features.serving.promotion import Promotion
from adc_features.serving.ranked import Serving
from adc_features.serving.variants import Deployment, Variant, place_of


class Opened(NamedTuple):
    """A variant and what scores for it."""

    variant: Variant
    bundle: Serving


class Deployed(NamedTuple):
    """The pair that serves, and the variants that could be opened."""

    main: Serving
    variants: tuple[Opened, ...] = ()

    @property
    def shared(self) -> tuple[Opened, ...]:
        """Those that serve a share of the users."""
        return tuple(o for o in self.variants if not o.variant.shadow)

    @property
    def shadows(self) -> tuple[Opened, ...]:
        """Those that score in shadow."""
        return tuple(o for o in self.variants if o.variant.shadow)

    @property
    def named(self) -> Deployment:
        """What a promotion file says that names exactly this."""
        return Deployment(self.main.promotion, tuple(o.variant for o in self.variants))

    def of(self, user: Any) -> Opened | None:
        """The variant that a user has; None for whom the promoted pair serves."""
        if not (shared := self.shared):
            return None
        place = place_of(user, shared[0].variant.salt)
        return next((o for o in shared if o.variant.serves(place)), None)


def deployed(serving: Serving | Deployed) -> Deployed:
    """A pair alone, or what is deployed already."""
    return serving if isinstance(serving, Deployed) else Deployed(serving)


def opened_beside(
    before: Deployed, named: Deployment, opened: Callable[[Promotion], Serving]
) -> tuple[Deployed, dict[str, Exception]]:
    """What the file names now, opened where it is not open yet, and what could not be.

    Errors are by the variant's name, "" for the promoted pair: then the pair before goes on. The
    users of a variant that cannot be opened are served by the promoted pair.
    """
    errors: dict[str, Exception] = {}
    main = before.main
    if named.promotion != main.promotion:
        try:
            main = opened(named.promotion)
        except Exception as error:  # whatever is wrong with the new pair, the old one serves on
            errors[""] = error
    variants = []
    for variant in named.variants:
        known = [o.bundle for o in before.variants if o.variant.pair == variant.pair]
        try:
            variants.append(Opened(variant, known[0] if known else opened(variant.pair)))
        except Exception as error:
            errors[variant.name] = error
    return Deployed(main, tuple(variants)), errors
