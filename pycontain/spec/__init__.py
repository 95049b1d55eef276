"""The OCI runtime specification (version 1.2, and the Linux properties of 1.3) and the documents of images (OCI image
specification 1.1, Docker's schema 2) as frozen attrs classes, JSON both ways.

Sequences are tuples and mappings are `FrozenMap`s, so that every value can be hashed; what is absent from a document
is None, empty, or False. Values are checked when they are made and raise `pycontain.SpecError`.
The modules are imported when one of their names is first used: making the classes takes longer than loading them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pycontain.spec.blockio import BlockIO as BlockIO
    from pycontain.spec.blockio import ThrottleDevice as ThrottleDevice
    from pycontain.spec.blockio import WeightDevice as WeightDevice
    from pycontain.spec.controllers import HugepageLimit as HugepageLimit
    from pycontain.spec.controllers import InterfacePriority as InterfacePriority
    from pycontain.spec.controllers import NetworkResources as NetworkResources
    from pycontain.spec.controllers import Rdma as Rdma
    from pycontain.spec.convert import UnknownProperty as UnknownProperty
    from pycontain.spec.convert import from_dict as from_dict
    from pycontain.spec.convert import from_json as from_json
    from pycontain.spec.convert import to_dict as to_dict
    from pycontain.spec.convert import to_json as to_json
    from pycontain.spec.devices import Device as Device
    from pycontain.spec.devices import NetDevice as NetDevice
    from pycontain.spec.frozen import Frozen as Frozen
    from pycontain.spec.frozen import FrozenMap as FrozenMap
    from pycontain.spec.hooks import Hook as Hook
    from pycontain.spec.hooks import Hooks as Hooks
    from pycontain.spec.image import ArchivedImage as ArchivedImage
    from pycontain.spec.image import ConfigFields as ConfigFields
    from pycontain.spec.image import Descriptor as Descriptor
    from pycontain.spec.image import Healthcheck as Healthcheck
    from pycontain.spec.image import History as History
    from pycontain.spec.image import ImageConfig as ImageConfig
    from pycontain.spec.image import Index as Index
    from pycontain.spec.image import Manifest as Manifest
    from pycontain.spec.image import Platform as Platform
    from pycontain.spec.image import RootFS as RootFS
    from pycontain.spec.image import decode as decode
    from pycontain.spec.image import decode_archived as decode_archived
    from pycontain.spec.image import decode_manifest as decode_manifest
    from pycontain.spec.image import encode as encode
    from pycontain.spec.image import encode_archived as encode_archived
    from pycontain.spec.resources import CPU as CPU
    from pycontain.spec.resources import DeviceRule as DeviceRule
    from pycontain.spec.resources import Memory as Memory
    from pycontain.spec.resources import Pids as Pids
    from pycontain.spec.resources import Resources as Resources
    from pycontain.spec.runtime import Capabilities as Capabilities
    from pycontain.spec.runtime import ConsoleSize as ConsoleSize
    from pycontain.spec.runtime import IDMapping as IDMapping
    from pycontain.spec.runtime import Linux as Linux
    from pycontain.spec.runtime import Mount as Mount
    from pycontain.spec.runtime import Namespace as Namespace
    from pycontain.spec.runtime import Process as Process
    from pycontain.spec.runtime import Rlimit as Rlimit
    from pycontain.spec.runtime import Root as Root
    from pycontain.spec.runtime import Spec as Spec
    from pycontain.spec.runtime import User as User
    from pycontain.spec.seccomp import Seccomp as Seccomp
    from pycontain.spec.seccomp import Syscall as Syscall
    from pycontain.spec.seccomp import SyscallArg as SyscallArg
    from pycontain.spec.tuning import ExecCPUAffinity as ExecCPUAffinity
    from pycontain.spec.tuning import IntelRdt as IntelRdt
    from pycontain.spec.tuning import IOPriority as IOPriority
    from pycontain.spec.tuning import MemoryPolicy as MemoryPolicy
    from pycontain.spec.tuning import Personality as Personality
    from pycontain.spec.tuning import Scheduler as Scheduler
    from pycontain.spec.tuning import TimeOffset as TimeOffset

_NAMES = {
    "blockio": ("BlockIO", "ThrottleDevice", "WeightDevice"),
    "controllers": ("HugepageLimit", "InterfacePriority", "NetworkResources", "Rdma"),
    "convert": ("UnknownProperty", "from_dict", "from_json", "to_dict", "to_json"),
    "devices": ("Device", "NetDevice"),
    "frozen": ("Frozen", "FrozenMap"),
    "hooks": ("Hook", "Hooks"),
    "image": (
        "ArchivedImage",
        "ConfigFields",
        "Descriptor",
        "Healthcheck",
        "History",
        "ImageConfig",
        "Index",
        "Manifest",
        "Platform",
        "RootFS",
        "decode",
        "decode_archived",
        "decode_manifest",
        "encode",
        "encode_archived",
    ),
    "resources": ("CPU", "DeviceRule", "Memory", "Pids", "Resources"),
    "runtime": (
        "Capabilities",
        "ConsoleSize",
        "IDMapping",
        "Linux",
        "Mount",
        "Namespace",
        "Process",
        "Rlimit",
        "Root",
        "Spec",
        "User",
    ),
    "seccomp": ("Seccomp", "Syscall", "SyscallArg"),
    "tuning": (
        "ExecCPUAffinity",
        "IOPriority",
        "IntelRdt",
        "MemoryPolicy",
        "Personality",
        "Scheduler",
        "TimeOffset",
    ),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
