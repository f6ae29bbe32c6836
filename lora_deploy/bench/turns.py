"""Who measures when: every form once a round, and nobody always after the same one."""

from collections.abc import Sequence
from typing import TypeVar

Named = TypeVar("Named")


def turns(forms: Sequence[Named], round_number: int) -> list[Named]:
    """The forms in the order of one round: two rounds begin alike, one forwards and one backwards."""
    first = round_number // 2 % len(forms) if forms else 0
    order = [*forms[first:], *forms[:first]]
    return order[::-1] if round_number % 2 else order
