"""What the intervals of each report cover and what they leave out, in words. Reads: nothing.
Writes: sentences.

`adc compare` alone fits everything several times: `training.comparison.verdict` speaks of its
intervals.
"""

ONE_FIT = (
    "Behaviour vectors and the tokenizer were fitted once: the chance of fitting them again is left"
    " out. `adc compare` covers it, by fitting all anew."
)
RANKERS = (
    "Intervals cover who was scored and the seeds of each ranker. They leave out the chance of"
    " fitting anew what the rankers read, as semantic IDs."
)
"""Of `adc train` and `adc evaluate`."""
EXCHANGES = (
    "Intervals cover who was scored and the chance of the exchanges. They are of this one fitted"
    " ranker: another seed may lean on other inputs."
)
"""Of importances."""
VARIANTS = (
    "Intervals cover who was served. They are of the rankers that were served, and leave out the"
    " chance of fitting them anew, and that of other weeks."
)
"""Of `adc evaluate --from-log`."""


def of_run(seeds: float | None) -> str:
    """Of the rankers of a run with so many seeds each; None: not known."""
    if seeds is None:
        return "Intervals: 95 %, bootstrap over users."
    if seeds > 1:
        return (
            f"Intervals: 95 %, bootstrap over users and over the {seeds:.0f} seeds of each recipe,"
            f" so they cover the chance in training rankers too. {ONE_FIT}"
        )
    return (
        "Intervals: 95 %, bootstrap over users. With one seed they leave out the chance in"
        f" training: train several seeds before you trust a small difference. {ONE_FIT}"
    )
