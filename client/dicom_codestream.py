"""The size that a compressed frame itself says it has: a decoder makes room for that, whatever the header says.

Source: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2 (JPEG-LS), T.800 A.5.1 (JPEG 2000).
"""

import struct

_JPEG_START, _JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


def size_px(frame: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG, JPEG-LS or JPEG 2000 frame; None where none is found, or of another kind."""
    if frame.startswith(_JPEG_2000_START) and len(frame) >= 24:
        right, lower, left, upper = struct.unpack_from(">IIII", frame, 8)
        return right - left, lower - upper
    return _of_jpeg(frame) if frame.startswith(_JPEG_START) else None


def _of_jpeg(frame: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _BARE_MARKERS:
            at += 2
        elif marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return width, height
        else:
            at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    return None
