"""The base models that come with the package: names and folders only, nothing is loaded."""

from pathlib import Path

_ASSETS = Path(__file__).parents[1] / "assets"

EMBEDDED_BASES = ("videomae-nano",)


def embedded_base(name: str) -> Path:
    """The transformers folder of a base that comes with the package.

    Raises:
        KeyError: No embedded base is called so.
    """
    if name not in EMBEDDED_BASES:
        raise KeyError(
            f"no embedded base is called {name!r}; there is: {', '.join(EMBEDDED_BASES)}"
        )
    return _ASSETS / name
