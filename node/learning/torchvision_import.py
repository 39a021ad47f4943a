"""Import torchvision even where its compiled operators do not fit the installed torch.

The wheel of torchvision on the package index is built against CUDA torch. Beside a CPU-only torch its
extension cannot load, and the import stops while registering shapes for operators that do not exist.
Data sets and transforms do not need those operators, so the missing names are declared and the import
is tried once more. Calling ``torchvision.ops`` still fails afterwards, with torch's own message.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []  # torch forgets the names when the library object is freed


def import_torchvision() -> ModuleType:
    """The torchvision module; a normal installation is left untouched.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: The import failed for any reason but the missing operators.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    _forget_half_imported()
    _declare_missing_operators()
    return importlib.import_module("torchvision")


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]


def _declare_missing_operators() -> None:
    import torch

    if _declared:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)
