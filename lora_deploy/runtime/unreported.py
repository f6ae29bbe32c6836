"""Imports of OpenVINO that tell nobody: by itself it reports each of them to Google Analytics."""

import sys
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager

_REPORTER = "openvino_telemetry"
"""The package that does it; without it OpenVINO takes a stand-in of its own that does nothing."""

_modules: MutableMapping[str, object] = sys.modules  # type: ignore[assignment]  # None: not there
_lock = threading.RLock()


@contextmanager
def unreported() -> Iterator[None]:
    """Import ``openvino`` in this block; others who use its reporter find it again afterwards."""
    with _lock:
        absent = object()
        before = _modules.get(_REPORTER, absent)
        _modules[_REPORTER] = None
        try:
            yield
        finally:
            if before is absent:
                del _modules[_REPORTER]
            else:
                _modules[_REPORTER] = before
