"""The errors that callers may catch. Reads: messages. Writes: nothing.

AdcError
├── InputError             data or arguments that we refuse; nothing was changed
│   ├── ReliabilityError   the reliability signal disagrees with the interaction counts
│   ├── RequestError       a request to a service that it refuses
│   └── LeakError          a frame holds features from after its rows' times
├── QualityError           a fitted tokenizer fails its quality gate; nothing was written
├── ArtifactError          a file or directory on disk is missing, incomplete or altered
│   ├── NewerFormatError   a newer version of this library wrote it; it is left as it is
│   └── NotWrittenError    it could not be written, as where the disk is full; nothing was changed
├── GenerationMismatch     codes of one generation offered to a reader of another
├── DeviceError            a device's memory, or a process that takes part in a fit, gave out
├── MissingExtraError      a package that an extra of this one installs is not installed
├── StorageError           an object store refuses the credentials, or does not answer
└── ParityError            an online value differs from its offline value

Every message says what we got, what we expected and what to do next.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from adc_features.redaction import redacted

__all__ = [
    "AdcError",
    "ArtifactError",
    "DeviceError",
    "GenerationMismatch",
    "InputError",
    "LeakError",
    "MissingExtraError",
    "NewerFormatError",
    "NotWrittenError",
    "ParityError",
    "QualityError",
    "ReliabilityError",
    "RequestError",
    "StorageError",
]


class AdcError(Exception):
    """Base of every error that this project raises on purpose.

    Its message says what was found, what was expected and what to do, and holds no password of a
    database URL.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in parts))


class InputError(AdcError):
    """Data or arguments that cannot be used as they are; no work was done."""


class ReliabilityError(InputError):
    """The reliability signal does not rise with interaction counts.

    See docs/method_notes.md, "The reliability signal".
    """


class LeakError(InputError):
    """Rows of a frame read features that became valid only after them."""


class RequestError(InputError):
    """A request to a service that cannot be answered as it is.

    It is the client's fault, told apart from faults of what the service reads.
    """


class QualityError(AdcError):
    """A tokenizer was fitted, but its codes are used too unevenly to be published.

    Nothing was written.
    """


class ArtifactError(AdcError):
    """An artefact is missing, incomplete, or not what its manifest says."""


class NewerFormatError(ArtifactError):
    """A newer version of this library wrote an artefact. It is not damaged, so no command writes it
    again.
    """


class NotWrittenError(ArtifactError):
    """An artefact could not be written: the disk is full, or permission is missing. Nothing of it
    was changed; the same can be done again when there is room.
    """


class GenerationMismatch(AdcError):
    """Codes of one generation met a reader that was built for another."""


class DeviceError(AdcError):
    """The memory of a device did not hold a step of a fit, or another process of a fit failed.

    Nothing was written.
    """


class MissingExtraError(AdcError, ImportError):
    """A package that an extra installs is not installed.

    It is an ImportError too, for callers who try an optional feature.

    Attributes
    ----------
    extra : str
        The extra of adc-features that installs the package.
    """

    def __init__(self, message: str, *, extra: str) -> None:
        super().__init__(message)
        self.extra = extra


class StorageError(AdcError):
    """An object store refuses the credentials, which are missing or have expired, or it does not
    answer. What is stored there may be as it should.
    """


class ParityError(AdcError):
    """Online and offline values differ.

    Attributes
    ----------
    first_differences : list of dict
        At most ten, each with the entity's key, "feature", "offline" and "online".
    """

    def __init__(
        self, message: str, *, first_differences: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(message)
        self.first_differences = list(first_differences)
