"""How large would a compressed batch become? The broker limits what travels, not what it unfolds to.

13 KB of zstd unfold to 400 MB, and the 1 MB that a broker takes to 32 GB: a partner could end every member
that reads his topic, again and again. What its blocks may become is known before any of them is unfolded.
"""

import zlib
from collections.abc import Callable, Iterator

MOST_BYTES = 64 * 2**20     # an honest batch of JSON has a tenth of it
_GZIP, _LZ4, _ZSTD = 1, 3, 4    # snappy unfolds to 21 times at most
_GZIP_AT_MOST, _LZ4_AT_MOST = 1032, 255     # times what it was
_LZ4_MAGIC, _ZSTD_MAGIC = b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"
_ZSTD_BLOCK = 128 * 1024
_PIECE = 2**20


def is_too_large(codec: int, packed: memoryview) -> bool:
    """Whether the records of a batch (codec: of its attributes) are more than 64 MiB, or cannot be told."""
    blocks = _BLOCKS.get(codec)
    if blocks is None or (codec == _GZIP and len(packed) * _GZIP_AT_MOST <= MOST_BYTES):
        return False
    if codec == _LZ4 and len(packed) * _LZ4_AT_MOST <= MOST_BYTES:
        return False
    total = 0
    try:
        for size in blocks(packed):
            total += size
            if total > MOST_BYTES:
                return True
    except (IndexError, ValueError, zlib.error):
        return True
    return False


def _gzip_blocks(packed: memoryview) -> Iterator[int]:
    """Gzip says nothing beforehand: it is unfolded by pieces that are thrown away. Every producer writes one
    stream; of fifty thousand empty ones behind it each costs a copy of all the rest.
    """
    rest = bytes(packed)
    stream = zlib.decompressobj(wbits=31)
    while not stream.eof:
        piece = stream.decompress(rest, _PIECE)
        rest = stream.unconsumed_tail
        if not piece and not rest and not stream.eof:
            raise ValueError("it ends in the middle")
        yield len(piece)
    if stream.unused_data:
        raise ValueError("something stands behind it")


def _lz4_blocks(packed: memoryview) -> Iterator[int]:
    """What each block may become (LZ4 frame format 1.6)."""
    at = 0
    while at < len(packed):
        if packed[at : at + 4] != _LZ4_MAGIC:
            raise ValueError("no frame of lz4")
        flags, most = packed[at + 4], 1 << (8 + 2 * (packed[at + 5] >> 4 & 7))
        at += 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
        while (head := _number(packed, at, 4)) != 0:
            size = head & 0x7FFFFFFF
            yield size if head >> 31 else min(most, size * _LZ4_AT_MOST)
            at += 4 + size + (4 if flags & 16 else 0)
        at += 4 + (4 if flags & 4 else 0)


def _zstd_blocks(packed: memoryview) -> Iterator[int]:
    """What each block may become (RFC 8878)."""
    at = 0
    while at < len(packed):
        if _number(packed, at, 4) >> 4 == 0x184D2A5:    # a frame to be skipped
            at += 8 + _number(packed, at + 4, 4)
            continue
        if packed[at : at + 4] != _ZSTD_MAGIC:
            raise ValueError("no frame of zstd")
        flags = packed[at + 4]
        single = flags >> 5 & 1
        at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
        last = 0
        while not last:
            head = _number(packed, at, 3)
            last, kind, size = head & 1, head >> 1 & 3, head >> 3
            yield _ZSTD_BLOCK if kind == 2 else size
            at += 3 + (1 if kind == 1 else size)
        at += 4 if flags & 4 else 0


def _number(packed: memoryview, at: int, width: int) -> int:
    if at + width > len(packed):
        raise IndexError(at)
    return int.from_bytes(packed[at : at + width], "little")


_BLOCKS: dict[int, Callable[[memoryview], Iterator[int]]] = {
    _GZIP: _gzip_blocks, _LZ4: _lz4_blocks, _ZSTD: _zstd_blocks
}
