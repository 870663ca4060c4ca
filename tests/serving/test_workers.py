"""The process that answers, and those beside it."""

import os
import signal
import threading
import weakref

import pytest

from adc_features.serving import workers


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_service_that_is_told_to_end_in_a_callback_ends_before_it_serves(monkeypatch):
    """Python ignores what a handler raises within the callback of a weak reference, as at a garbage
    collection during start; the service ends all the same.
    """

    class Freed:
        pass

    def told(_) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(1000):  # the handler runs here
            pass

    monkeypatch.setattr(workers, "_ending", threading.Event())
    before = signal.getsignal(signal.SIGTERM)
    try:
        with workers.beside(0, workers.one_thread, metrics=None):
            freed = Freed()
            reference = weakref.ref(freed, told)
            del freed
            assert reference() is None
            with pytest.raises(SystemExit):
                workers.settle()
    finally:
        signal.signal(signal.SIGTERM, before)
