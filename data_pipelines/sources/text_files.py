"""Text as people have it: byte order marks, UTF-16, line ends of any system; what is no text is refused."""

import codecs
import os

from data_pipelines.errors import DataError

MAX_BYTES = 1 << 29  # of a text file
MAX_LINE = 1 << 16  # characters
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
          (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read_text(path: str, names_files: bool = False) -> str:
    """The content of a text file: UTF-8, or UTF-16 or UTF-32 with a byte order mark.

    Args:
        path: the file.
        names_files: bytes that are no UTF-8 are kept as `os.fsdecode` does: names of files may hold them.

    Raises:
        DataError: too large, or no such text.
    """
    size = os.path.getsize(path)
    if size > MAX_BYTES:
        raise DataError(f"{path} has {size} bytes, more than the {MAX_BYTES} of a list: is it the right "
                        f"file?")
    with open(path, "rb") as file:
        data = file.read()
    mark, codec = next(((mark, codec) for mark, codec in _MARKS if data.startswith(mark)), (b"", "utf-8"))
    data = data[len(mark):]
    if codec == "utf-8" and b"\0" in data:
        raise DataError(f"{path} holds zero bytes: it is no text, or UTF-16 without a byte order mark. Save "
                        f"it as UTF-8.")
    try:
        return data.decode(codec, "surrogateescape" if names_files and codec == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: byte 0x{data[error.start]:02x} is no {codec.upper()}. Save the "
                        f"file as UTF-8 (`iconv -f LATIN1 -t UTF-8` if it is in Latin-1).") from None


def split_lines(text: str, path: str) -> list[str]:
    r"""Lines end at \n, \r\n or, in files without any \n, at \r; at nothing else, names may hold the rest.

    Raises:
        DataError: a line that is too long.
    """
    lines = text.split("\n") if "\n" in text else text.split("\r")
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE:
            raise DataError(f"{path}:{number}: a line of {len(line)} characters, more than {MAX_LINE}: is "
                            f"it the right file?")
    return [line.removesuffix("\r") for line in lines]
