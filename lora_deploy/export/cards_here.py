"""Which NVIDIA cards are here, asked of the driver itself, without any package."""

import ctypes
from collections.abc import Callable
from typing import Any

_MAJOR, _MINOR = 75, 76
"""``CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…`` in ``cuda.h``."""


def cards_here(open_driver: Callable[[str], Any] = ctypes.CDLL) -> tuple[str, ...]:
    """Compute capability of each card, such as ``8.6``; none where there is no driver.

    ``CUDA_VISIBLE_DEVICES`` has its say.

    Args:
        open_driver: Opens a library by its name.
    """
    try:
        driver = open_driver("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(
        f"{_attribute(driver, _MAJOR, index)}.{_attribute(driver, _MINOR, index)}"
        for index in range(count.value)
    )


def _attribute(driver: Any, number: int, index: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), number, index)
    return value.value
