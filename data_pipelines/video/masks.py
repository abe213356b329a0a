"""Reading masks: images whose pixels are numbers of classes, grey levels of 8 or 16 bits or a palette."""

import struct
import zlib

import cv2
import numpy as np

from data_pipelines.errors import VideoError

UNLABELLED = 255
_PNG = b"\x89PNG\r\n\x1a\n"


def read_classes(mask: str | bytes, num_classes: int, first: int = 0, name: str = "") -> np.ndarray:
    """Class of every pixel of a mask, uint8 (H, W); `UNLABELLED` where there is none.

    Args:
        mask: path of the image, or its content.
        num_classes: K.
        first: number of class 0 in the mask. What is smaller is unlabelled, and so is 255 where it is no
            class.
        name: what to call it in errors; the path by default.

    Raises:
        VideoError: not readable, coloured, or with a number that is no class.
    """
    name = name or _name(mask)
    numbers = read_numbers(mask, name).astype(np.int64)
    classes = numbers - first
    unknown = (classes < 0) | ((numbers == UNLABELLED) & (classes >= num_classes))
    if (wrong := ~unknown & (classes >= num_classes)).any():
        row, column = np.unravel_index(wrong.argmax(), wrong.shape)
        raise VideoError(name, f"pixel {numbers[row, column]} at row {row}, column {column} is no class: "
                               f"expected {first} to {first + num_classes - 1}, or 255 for pixels without one"
                               + (f" (or less than {first})" if first else ""))
    return np.where(unknown, UNLABELLED, classes).astype(np.uint8)


def _name(mask: str | bytes) -> str:
    return "mask" if isinstance(mask, bytes) else mask


def read_numbers(mask: str | bytes, name: str = "") -> np.ndarray:
    """The numbers of a mask as they are stored, (H, W) of uint8 or uint16; a palette's colours do not matter.

    Args:
        mask: path of the image, or its content.
        name: what to call it in errors; the path by default.

    Raises:
        VideoError: not readable, or three colours that are not the same.
    """
    name, data = name or _name(mask), mask
    if not isinstance(mask, bytes):
        try:
            with open(mask, "rb") as file:
                data = file.read()
        except OSError as error:
            raise VideoError(name, f"mask: {error.strerror}") from None
    data, levels = without_palette(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error as error:  # too many pixels
        raise VideoError(name, f"mask is not a readable image ({error.err})") from None
    if image is None:
        raise VideoError(name, "mask is not a readable image")
    if image.ndim == 3:
        image = image[..., :3]
        if (image != image[..., :1]).any():
            raise VideoError(name, "mask is a coloured image: expected numbers of classes, one channel")
        image = image[..., 0]
    return image // (255 // levels) if levels else image


def without_palette(data: bytes) -> tuple[bytes, int]:
    """A png with a palette as one of grey levels, whose pixels are its numbers; anything else as it is.

    OpenCV gives colours of a palette, not its numbers.

    Returns:
        The file; and its largest number where grey levels are stretched to 255 when they are read, else 0.
    """
    if not data.startswith(_PNG) or len(data) < 33 or data[25] != 3:  # the colour type
        return data, 0
    parts, at = [_PNG], 8
    while at + 12 <= len(data):
        length, = struct.unpack(">I", data[at:at + 4])
        kind, content = data[at + 4:at + 8], data[at + 8:at + 8 + length]
        if kind == b"IHDR":
            content = content[:9] + b"\0" + content[10:]
        if kind in (b"IHDR", b"IDAT", b"IEND"):
            parts.append(data[at:at + 4] + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
        at += 12 + length
    depth = data[24]
    return b"".join(parts), 2**depth - 1 if depth < 8 else 0
