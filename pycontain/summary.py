"""A container in one line: what differs from the defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycontain import defaults
from pycontain.limits import CPU_PERIOD
from pycontain.sizes import format_size
from pycontain.spec import Linux, Resources, Spec

if TYPE_CHECKING:
    from pycontain.images.choice import ImageChoice


def summary(spec: Spec, user: str | None = None, source: ImageChoice | None = None) -> str:
    """The root, the names, the limits that are set, and the namespaces that are not the usual ones."""
    linux = spec.linux or Linux()
    resources = linux.resources or Resources()
    words = []
    if spec.root is None:
        words.append("no root")
    else:
        place = "host" if spec.root.path == "/" else repr(spec.root.path)
        words.append(place if source is None else source.reference)
        words += ["read-only"] if spec.root.readonly else []
    words += [f"hostname={spec.hostname}"] if spec.hostname else []
    words += [f"user={user}"] if user else []
    if resources.memory is not None and resources.memory.limit is not None:
        words.append(f"memory={format_size(resources.memory.limit)}")
    if resources.cpu is not None and resources.cpu.quota is not None:
        words.append(f"cpus={resources.cpu.quota / (resources.cpu.period or CPU_PERIOD):g}")
    if resources.pids is not None:
        words.append(f"pids={resources.pids.limit}")
    words += [f"{kind}={where}" for kind, where in _unusual_namespaces(linux)]
    return " ".join(words)


def _unusual_namespaces(linux: Linux) -> list[tuple[str, str]]:
    have = {namespace.type: namespace.path or "new" for namespace in linux.namespaces}
    usual = {namespace.type: "new" for namespace in defaults.NAMESPACES}
    kinds = dict.fromkeys([*usual, *have])
    return [(k, have.get(k, "host")) for k in kinds if have.get(k, "host") != usual.get(k, "host")]
