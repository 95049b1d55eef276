"""pycontain runs Linux containers directly from the calling process.

The public names are these; each is imported from its module when it is first used, so that `import pycontain` costs
next to nothing. Layers, from the top: container, task, result, streams; then runtimes, cgroups, network; then spec and
linux; at the bottom the C core in _native. Each imports only from those below it (docs/architecture.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pycontain.container import Container as Container
    from pycontain.errors import AuthenticationFailed as AuthenticationFailed
    from pycontain.errors import BlobDamaged as BlobDamaged
    from pycontain.errors import CgroupError as CgroupError
    from pycontain.errors import CommandNotExecutable as CommandNotExecutable
    from pycontain.errors import CommandNotFound as CommandNotFound
    from pycontain.errors import ImageError as ImageError
    from pycontain.errors import ImageNotFound as ImageNotFound
    from pycontain.errors import InvalidArgument as InvalidArgument
    from pycontain.errors import InvalidImage as InvalidImage
    from pycontain.errors import InvalidReference as InvalidReference
    from pycontain.errors import LayerError as LayerError
    from pycontain.errors import LimitNotSupported as LimitNotSupported
    from pycontain.errors import NotSupported as NotSupported
    from pycontain.errors import ProcessFailed as ProcessFailed
    from pycontain.errors import PycontainError as PycontainError
    from pycontain.errors import RegistryError as RegistryError
    from pycontain.errors import SpecError as SpecError
    from pycontain.errors import StartFailed as StartFailed
    from pycontain.errors import StoreError as StoreError
    from pycontain.errors import TaskError as TaskError
    from pycontain.errors import WaitTimeout as WaitTimeout
    from pycontain.images.image import Image as Image
    from pycontain.network import NetworkNamespace as NetworkNamespace
    from pycontain.preflight import Finding as Finding
    from pycontain.preflight import Report as Report
    from pycontain.preflight import doctor as doctor
    from pycontain.result import Result as Result
    from pycontain.result import Usage as Usage
    from pycontain.streams import DEVNULL as DEVNULL
    from pycontain.streams import PIPE as PIPE
    from pycontain.streams import STDOUT as STDOUT
    from pycontain.task import Task as Task

_NAMES = {
    "container": ("Container",),
    "errors": (
        "AuthenticationFailed",
        "BlobDamaged",
        "CgroupError",
        "CommandNotExecutable",
        "CommandNotFound",
        "ImageError",
        "ImageNotFound",
        "InvalidArgument",
        "InvalidImage",
        "InvalidReference",
        "LayerError",
        "LimitNotSupported",
        "NotSupported",
        "ProcessFailed",
        "PycontainError",
        "RegistryError",
        "SpecError",
        "StartFailed",
        "StoreError",
        "TaskError",
        "WaitTimeout",
    ),
    "images.image": ("Image",),
    "network": ("NetworkNamespace",),
    "preflight": ("Finding", "Report", "doctor"),
    "result": ("Result", "Usage"),
    "streams": ("DEVNULL", "PIPE", "STDOUT"),
    "task": ("Task",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_MODULE_OF)]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
