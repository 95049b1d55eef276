"""Tries things in the ways that there are, and says what was refused in the words that the errors of a start use."""

from __future__ import annotations

from collections.abc import Sequence

from pycontain.cgroups import Reason
from pycontain.errors import name_of
from pycontain.linux.namespaces import NamespaceType
from pycontain.linux.plan import Step
from pycontain.preflight.report import Finding, no, partly, yes
from pycontain.runtimes import obstacles
from pycontain.runtimes.features import Refused, attempt
from pycontain.runtimes.remedies import reason_for


def reason_of(refused: Refused, user_namespace: bool = False) -> Reason:
    """The cause, which names the step, the system call and the errno, and the remedy."""
    reason = reason_for(refused.syscall, refused.errno, refused.step, user_namespace) or Reason("", "")
    where = f"{refused.step}: " if refused.step else ""
    because = f": {reason.cause}" if reason.cause else ""
    return Reason(f"{where}{refused.syscall}: {name_of(refused.errno)}{because}", reason.remedy)


def try_both(
    name: str, sequence: Sequence[Step], flags: int, in_user_namespace: Sequence[Step] | None = None, *,
    detail: str = "", required: bool = False,
) -> Finding:
    """Tries the steps in new namespaces, and, should that be refused, with a user namespace as well ("partly").

    `in_user_namespace` are the steps for the second attempt where they differ.
    """
    refused = attempt(sequence, flags)
    if refused is None:
        return yes(name, detail, required=required)
    again = attempt(sequence if in_user_namespace is None else in_user_namespace, flags | NamespaceType.USER)
    if again is not None:
        worse = again if not obstacles.has_capability("CAP_SYS_ADMIN") else refused
        return no(name, reason_of(worse, user_namespace=worse is again), required=required)
    return partly(
        name, Reason("only with a user namespace of its own", reason_of(refused).remedy), required=required
    )
