"""Which clips were given already: 43 bytes each at most, 64 while the table grows."""

from hashlib import blake2b

_KEY_BYTES = 16
"""Of a digest. That two of a billion different clips share one has a chance of 1 in 10^20."""

_EMPTY = bytes(_KEY_BYTES)
_FIRST_SLOTS = 1024


class Seen:
    """A set of texts that is never asked for them: only their digests are kept, in one table.

    Python's own set of the same digests takes more than twice as much.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self._count = 0
        self._slots = _FIRST_SLOTS
        self._table = bytearray(_FIRST_SLOTS * _KEY_BYTES)

    def is_new(self, text: str) -> bool:
        """Whether ``text`` comes for the first time; from now on it does not."""
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).digest()
        at = self._place(digest)
        if self._table[at : at + _KEY_BYTES] == digest:
            return False
        self._table[at : at + _KEY_BYTES] = digest
        self._count += 1
        if 4 * self._count > 3 * self._slots:
            self._grow()
        return True

    def _place(self, digest: bytes) -> int:
        """Where a digest is, or is to be put: the next free place behind the one that is its own."""
        slot = int.from_bytes(digest[:8]) % self._slots
        while self._table[slot * _KEY_BYTES : (slot + 1) * _KEY_BYTES] not in (digest, _EMPTY):
            slot = (slot + 1) % self._slots
        return slot * _KEY_BYTES

    def _grow(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = bytearray(self._slots * _KEY_BYTES)
        for at in range(0, len(old), _KEY_BYTES):
            digest = bytes(old[at : at + _KEY_BYTES])
            if digest != _EMPTY:
                place = self._place(digest)
                self._table[place : place + _KEY_BYTES] = digest
