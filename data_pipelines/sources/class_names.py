"""Names of classes in every form that data sets have them; what could be read in two ways is refused."""

import csv
import json
import logging
import re
from collections.abc import Iterable, Sequence

from data_pipelines.errors import DataError
from data_pipelines.names import printable
from data_pipelines.sources.text_files import read_text, split_lines

FORMS = ("Known forms: one name per line; lines `index name` or `name,index`, indices from 0 or 1 in any "
         "order, "
         "columns separated by commas or tabs, with a header such as `id,name` or without; JSON: a list of "
         "names, "
         "or an object of names and indices. `0 name` lines can never be misread.")
_INDEX_WORDS = {"id", "index", "idx", "nr", "no", "number", "class_id", "label_id", "classid", "labelid",
                "class_index", "label_index", "class_idx", "label_idx", "classindex"}
_NAME_WORDS = {"name", "names", "class_name", "label_name", "classname", "labelname", "class name",
               "label name", "action", "category", "title", "display_name"}
_EITHER = {"label", "labels", "class", "classes", "target"}
_ALONE = {"name", "names", "label", "labels", "class", "classes", "class_name", "label_name", "classname",
          "labelname", "class name", "label name"}  # of a single column
_INDEX_FIRST = re.compile(r"([0-9]{1,9})(?:\s*[,;\t]\s*|\s+)(.+)$")
_INDEX_LAST = re.compile(r"(.+?)\s*[,;\t]\s*([0-9]{1,9})$")
_BLANK_LAST = re.compile(r"(.+?)\s+([0-9]{1,9})$")

Pairs = list[tuple[int, str]]


def read_class_names(path: str) -> list[str]:
    """Names of the classes in the order of their indices, from a text, csv or JSON file (`FORMS`).

    Raises:
        DataError: no names, indices that are not consecutive, or a form that is not known.
    """
    names = parse_class_names(read_text(path), path)
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        logging.warning("%s: %d class names occur more than once, e.g. %r", path, len(twice), twice[0])
    return names


def parse_class_names(text: str, path: str) -> list[str]:
    """Names of the classes in a text; raises as `read_class_names`."""
    ending = str(path).lower().rpartition(".")[2]
    if ending == "json" or text.lstrip()[:1] in ("[", "{"):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            if ending == "json":
                raise DataError(f"{path} is no JSON ({error}). {FORMS}") from None
        else:
            return [printable(name) for name in _from_json(content, path)]
    lines = [(number, line.strip()) for number, line in enumerate(split_lines(text, path), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no class names. {FORMS}")
    return [printable(name) for name in _from_lines(lines, path, ending in ("csv", "tsv"))]


def class_lines(names: Sequence[str]) -> list[str]:
    """Lines of a file that `read_class_names` reads back as these names: plain ones if that works.

    Raises:
        DataError: a name that no line can hold.
    """
    quoted = [name.replace('"', '""') for name in names]
    for lines in (list(names), [f"{index} {name}" for index, name in enumerate(names)],
                  [f'{index},"{name}"' for index, name in enumerate(quoted)]):
        try:
            if parse_class_names("".join(f"{line}\n" for line in lines), "classes.txt") == list(names):
                return lines
        except DataError:
            pass
    odd = next((name for name in names if name != printable(name).strip()), names[0])
    raise DataError(f"class name {odd!r} cannot be a line of a text file (blanks at its ends, line breaks "
                    f"or bytes that are no UTF-8): rename the class.")


def _from_json(content, path) -> list[str]:
    if isinstance(content, dict) and [type(value) for value in content.values()] in ([list], [dict]):
        content, = content.values()  # {"classes": [...]}
    if isinstance(content, list) and content and all(isinstance(name, str) for name in content):
        return [name.strip() for name in content]
    pairs = []
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, str) and key.isdecimal() and not value.isdecimal():
                pairs.append((int(key), value))
            elif not key.isdecimal() and (type(value) is int or isinstance(value, str) and value.isdecimal()):
                pairs.append((int(value), key))
    elif isinstance(content, list):
        for item in content:
            columns = _columns([key.lower() for key in item]) if isinstance(item, dict) else None
            if columns:
                index, name = (list(item.values())[column] for column in columns)
                pairs += [(index, name)] * (type(index) is int and isinstance(name, str))
    if not pairs or len(pairs) != len(content):
        raise DataError(f"{path}: this JSON is no list of names and no object of names and indices. {FORMS}")
    return _in_order(pairs, path)


def _from_lines(lines: list[tuple[int, str]], path: str, is_csv: bool) -> list[str]:
    first, rest = lines[0], lines[1:]
    for separator in (",", ";", "\t", None):
        fields = [field.strip().lower() for field in _fields(first[1], separator)]
        columns = _columns(fields, exactly_two=separator is None)
        if columns and rest:
            return _in_order(_by_columns(rest, path, separator, columns, len(fields)), path)
    texts = [line for _, line in lines]
    if pairs := _matches(_INDEX_FIRST, texts, 1, 2):
        return _in_order(pairs, path)
    if pairs := _matches(_INDEX_LAST, texts, 2, 1):
        return _in_order(pairs, path)
    if (pairs := _matches(_BLANK_LAST, texts, 2, 1)) and _is_column(pairs):
        return _in_order(pairs, path)
    _refuse_mixtures(lines, path)
    if texts[0].lower().strip('"') in _ALONE and rest:
        if not is_csv:
            raise DataError(f"{path}:{first[0]}: {texts[0]!r} looks like a header, not like a class: remove "
                            f"the line. {FORMS}")
        texts = texts[1:]
    separators = [s for s in ",;\t" if all(s in text for text in texts)] if is_csv or len(texts) > 1 else []
    if is_csv:
        rows = [_fields(text, "\t" if "\t" in separators else ",") for text in texts]
        if any(len(row) != 1 for row in rows):
            raise DataError(f"{path}: a table without a column of indices, or without a header that names "
                            f"it. "
                            f"{FORMS}")
        return [row[0] for row in rows]
    if set(separators) & {";", "\t"}:
        raise DataError(f"{path}: several columns, and none of them is an index. {FORMS}")
    quoted = all(len(text) > 2 and text[0] == text[-1] == '"' for text in texts)
    return [_unquoted(text) for text in texts] if quoted else texts


def _columns(fields: Sequence[str], exactly_two: bool = False) -> tuple[int, int] | None:
    """Positions of index and name in a header; None if it is none."""
    def places(words):
        return [i for i, field in enumerate(fields) if field in words]

    index, name, either = places(_INDEX_WORDS), places(_NAME_WORDS), places(_EITHER)
    if len(fields) < 2 or exactly_two and len(fields) > 2:
        return None
    index = index or (either if name else [])
    name = name or (either if index else [])
    return (index[0], name[0]) if len(index) == len(name) == 1 and index != name else None


def _by_columns(lines, path, separator, columns, count) -> Pairs:
    pairs = []
    for number, line in lines:
        fields = _fields(line, separator, count)
        if len(fields) != count or not re.fullmatch("[0-9]{1,9}", fields[columns[0]]):
            raise DataError(f"{path}:{number}: {line!r} does not have the columns of the header. {FORMS}")
        pairs.append((int(fields[columns[0]]), fields[columns[1]]))
    return pairs


def _fields(line: str, separator: str | None, count: int = 2) -> list[str]:
    if separator is None:
        return line.split(None, count - 1)
    return [field.strip() for field in next(csv.reader([line], delimiter=separator, skipinitialspace=True))]


def _matches(pattern, texts: Iterable[str], index: int, name: int) -> Pairs:
    """(index, name) of every text; nothing if one does not match."""
    found = [pattern.match(text) for text in texts]
    return [(int(match[index]), _unquoted(match[name].strip())) for match in found] if all(found) else []


def _is_column(pairs: Pairs) -> bool:
    """Whether numbers behind names are indices: each once, and not what tells the names apart."""
    indices = sorted(index for index, _ in pairs)
    return (len(pairs) > 1 and indices[0] <= 1 and indices == list(range(indices[0], indices[0] + len(pairs)))
            and len({name for _, name in pairs}) == len(pairs))


def _refuse_mixtures(lines, path) -> None:
    """Lines of which most have an index are a table with a header or with faults, not names."""
    texts = [text for _, text in lines]
    for pattern, index, name in ((_INDEX_FIRST, 1, 2), (_INDEX_LAST, 2, 1)):
        pairs = _matches(pattern, texts[1:], index, name)
        if len(pairs) > 1 and _is_column(pairs):
            raise DataError(f"{path}:{lines[0][0]}: {texts[0]!r} has no index, all other lines have one: is "
                            f"it a header? Remove it. {FORMS}")
    bare = [(number, text) for number, text in lines if text.isdecimal()]
    rest = [text for text in texts if not text.isdecimal()]
    if bare and rest and all(_INDEX_FIRST.match(text) for text in rest):
        raise DataError(f"{path}:{bare[0][0]}: {bare[0][1]!r} is an index without a name. {FORMS}")


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip() or text
    return text


def _in_order(pairs: Pairs, path) -> list[str]:
    ordered = sorted(pairs)
    first = ordered[0][0]
    if first > 1 or [index for index, _ in ordered] != list(range(first, first + len(ordered))):
        raise DataError(f"{path}: the class indices are not 0, 1, 2, ... (nor 1, 2, 3, ...): one is missing "
                        f"or repeated. {FORMS}")
    return [name for _, name in ordered]
