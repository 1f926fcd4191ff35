"""Which KV blocks hold what: reference counts, the prefix cache, and eviction of the least recently used.

A block that is full is named by a keyed hash of all tokens up to its end; a request whose prompt begins with the same
tokens uses it again. Blocks in use by nobody stay cached until memory is needed. Only full blocks are shared; where a
prompt parts from a cached block midway, the block is copied and the copy overwritten from there.
"""

import hashlib
import os
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Content:
    parent: bytes
    digest: bytes
    tokens: tuple[int, ...]


class BlockPool:
    """`num_blocks` KV blocks of `block_size` tokens. Not thread-safe: the engine's thread alone uses it."""

    def __init__(self, num_blocks: int, block_size: int):
        self.block_size = block_size
        self._free = deque(range(num_blocks))
        self._references = [0] * num_blocks
        self._contents: list[_Content | None] = [None] * num_blocks
        self._by_digest: dict[bytes, int] = {}
        self._children: dict[bytes, set[int]] = {}  # cached blocks by the digest before them
        self._unused: OrderedDict[int, None] = OrderedDict()  # cached, least recently used first
        self._key = os.urandom(32)

    @property
    def num_available(self) -> int:
        """Blocks that can be allocated now, cached ones that nobody uses included."""
        return len(self._free) + len(self._unused)

    def allocate(self) -> int:
        """A block of its own for the caller. There must be one available."""
        if self._free:
            block = self._free.popleft()
        else:
            block, _ = self._unused.popitem(last=False)
            self._forget(block)
        self._references[block] = 1
        return block

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one reference to each block; the last of a sequence is the first to be evicted."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._contents[block] is None:
                self._free.append(block)
            else:
                self._unused[block] = None

    def root(self, salt: bytes) -> bytes:
        """The digest before a request's first block."""
        return hashlib.blake2b(salt, key=self._key, digest_size=16).digest()

    def digest(self, parent: bytes, tokens: Sequence[int]) -> bytes:
        return hashlib.blake2b(parent + array("i", tokens).tobytes(), key=self._key, digest_size=16).digest()

    def publish(self, block: int, parent: bytes, tokens: Sequence[int]) -> bytes:
        """Offer a full block to others; returns its digest. If another block holds the same, this one stays private."""
        digest = self.digest(parent, tokens)
        if digest not in self._by_digest and self._contents[block] is None:
            self._by_digest[digest] = block
            self._contents[block] = _Content(parent, digest, tuple(tokens))
            self._children.setdefault(parent, set()).add(block)
        return digest

    def digests(self, tokens: Sequence[int], salt: bytes) -> list[bytes]:
        """Those of the full blocks of `tokens`."""
        digests, parent = [], self.root(salt)
        for start in range(0, len(tokens) - self.block_size + 1, self.block_size):
            digests.append(parent := self.digest(parent, tokens[start : start + self.block_size]))
        return digests

    def match(self, digests: Sequence[bytes]) -> tuple[list[int], list[bytes]]:
        """Take a reference to each cached block with which a sequence of these begins: (blocks, their digests)."""
        blocks = []
        for digest in digests:
            if (block := self._by_digest.get(digest)) is None:
                break
            self._take(block)
            blocks.append(block)
        return blocks, list(digests[: len(blocks)])

    def copy_partial(
        self, parent: bytes, tokens: Sequence[int], copy: Callable[[int, int], None]
    ) -> tuple[int, int] | None:
        """Copy the cached block that begins most like `tokens`: (new block, tokens in common), or None."""
        best, common = -1, 0
        for block in self._children.get(parent, ()):
            content = self._contents[block]
            same = 0
            for ours, theirs in zip(tokens, content.tokens if content else (), strict=False):
                if ours != theirs:
                    break
                same += 1
            if same > common:
                best, common = block, same
        if not common:
            return None
        self._take(best)  # so that it is not evicted for its own copy
        if not self.num_available:
            self.release([best])
            return None
        block = self.allocate()
        copy(best, block)
        self.release([best])
        return block, common

    def _take(self, block: int) -> None:
        self._references[block] += 1
        self._unused.pop(block, None)

    def _forget(self, block: int) -> None:
        content = self._contents[block]
        if content is None:
            return
        self._contents[block] = None
        del self._by_digest[content.digest]
        siblings = self._children[content.parent]
        siblings.discard(block)
        if not siblings:
            del self._children[content.parent]
