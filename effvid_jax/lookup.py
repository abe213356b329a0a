"""Classes found by name, without a list of them: a new method or task is one file and nothing else.

'reskd' is the class in `effvid_jax/methods/reskd.py`; a name with a dot ('my_project.my_method') is a module
of somebody else's, imported as it is.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from effvid_jax.errors import UserError


def find_class(field: str, name: str, base: type, package: str, shared: tuple[str, ...] = ()) -> type:
    """The one subclass of `base` that the module called `name` defines.

    Args:
        field: of the config that holds the name, for messages.
        name: of a module in `package`, or a dotted path of a module.
        base: what the class derives from.
        package: where names without a dot are looked for.
        shared: modules of `package` that are not meant, such as the one with `base`.

    Raises:
        UserError: unknown name, with close matches; or a module without such a class, or with several.
    """
    path = name if "." in name else f"{package}.{name}"
    known = known_names(package, shared)
    if "." not in name and name not in known:
        raise UserError(f"{field}={name!r} is unknown. Close matches: "
                         f"{difflib.get_close_matches(name, known, cutoff=0.65)}. All: {known}.")
    if not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"{field}={name!r} is no dotted path of a module. Without a dot there are {known}.")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if not f"{path}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports something that is not
        raise UserError(f"{field}={name!r}: there is no module {error.name!r}. A name with a dot is "
                         f"imported as it is; those without are {known}.") from error
    found = [value for key, value in vars(module).items()
             if isinstance(value, type) and issubclass(value, base) and value.__module__ == path
             and not key.startswith("_")]
    if len(found) != 1:
        raise UserError(f"{field}={name!r}: expected one class derived from {base.__name__} in {path}, "
                         f"found {[cls.__name__ for cls in found]}.")
    return found[0]


def known_names(package: str, shared: tuple[str, ...] = ()) -> list[str]:
    """Names without a dot that `find_class` knows."""
    paths = importlib.import_module(package).__path__
    return sorted(module.name for module in pkgutil.iter_modules(paths) if module.name not in shared)


def name_of(cls: type, package: str) -> str:
    """The name under which `find_class` finds a class of `package` or of somebody else's module."""
    return cls.__module__.removeprefix(f"{package}.")
