"""Names of files as text that can be printed and written anywhere."""

import re

# Control characters and line ends, and the bytes that are no UTF-8 (Python reads them as lone surrogates).
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: str) -> str:
    """The name on one line of valid Unicode: what is odd is escaped as in Python, e.g. 'latin\\xe9.mp4'."""
    return _ODD.sub(_escape, name)


def _escape(match) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
