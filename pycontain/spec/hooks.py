"""Commands that an OCI runtime runs at points of a container's life (config.md, POSIX-platform hooks)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from pycontain.spec.frozen import Frozen

if TYPE_CHECKING:
    from pycontain.spec.kinds import AbsolutePath, HookTimeout


@frozen(eq=False, repr=False)
class Hook(Frozen):
    """One command. `args` includes argument 0; `timeout` is in seconds, None is no limit."""

    path: AbsolutePath
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: HookTimeout | None = None


@frozen(eq=False, repr=False)
class Hooks(Frozen):
    """The hooks by their points, each run in order."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()
