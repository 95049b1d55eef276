"""The command `pycontain`. It only translates: options into a container, results and errors into exit statuses.

Exit statuses are the shell's and docker's: the command's own, 128+n when signal n ended it, 124 for a time limit, 125
for a failure of pycontain itself, 126 when the command cannot be executed, 127 when it was not found.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from pycontain import __version__
from pycontain.cli.images import COMMANDS
from pycontain.errors import CommandNotExecutable, CommandNotFound, InvalidArgument, PycontainError
from pycontain.standard_streams import fill_standard_streams

FAILED, NOT_EXECUTABLE, NOT_FOUND, INTERRUPTED = 125, 126, 127, 130


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line, `sys.argv` without `args`, and returns the exit status."""
    fill_standard_streams()
    try:
        return group.main(args=args, prog_name="pycontain", standalone_mode=False) or 0
    except click.Abort:
        return INTERRUPTED
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "pycontain"
        return _complain(f"{error.format_message()} See '{command} --help'.", FAILED)
    except click.ClickException as error:
        return _complain(error.format_message(), FAILED)
    except CommandNotFound as error:
        return _complain(str(error), NOT_FOUND)
    except CommandNotExecutable as error:
        return _complain(str(error), NOT_EXECUTABLE)
    except PycontainError as error:
        return _complain(str(error), FAILED)
    except Exception:  # a mistake in pycontain: the status must not look like the command's
        import traceback

        traceback.print_exc()
        return FAILED


def _complain(message: str, status: int) -> int:
    click.echo(f"pycontain: {' '.join(message.split())}", err=True)
    return status


@click.group(invoke_without_command=True)
@click.version_option(__version__, message="pycontain %(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """Run Linux containers directly: no daemon, nothing to set up."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@group.command(context_settings={"allow_interspersed_args": False})
@click.option("--host", is_flag=True, help="The root is a copy-on-write clone of the host's.")
@click.option("--rootfs", metavar="DIR", help="The root is a directory, which is never written to.")
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable, or pass on the caller's.")
@click.option("-v", "--volume", "volumes", multiple=True, metavar="SRC:DST[:ro]", help="Bind a file or directory.")
@click.option("--tmpfs", "tmpfs_mounts", multiple=True, metavar="DST[:size=SIZE]", help="A file system in memory.")
@click.option("-w", "--workdir", metavar="DIR", help="Where the command starts.")
@click.option("-u", "--user", metavar="USER[:GROUP]", help="Who runs the command, by name or number.")
@click.option("-m", "--memory", metavar="SIZE", help="Limit the memory, for instance to 256M.")
@click.option("--cpus", type=float, metavar="N", help="Limit the CPU time, to so many processors' worth.")
@click.option("--cpu-shares", type=int, metavar="N", help="The weight against others; 1024 is usual.")
@click.option("--pids-limit", type=int, metavar="N", help="Limit the number of processes and threads.")
@click.option("--network", metavar="none|host|FILE", help="Only a loopback interface (the default), or which.")
@click.option("-h", "--hostname", metavar="NAME", help="The host name inside.")
@click.option("--read-only", is_flag=True, help="The root is read-only.")
@click.option("--init", is_flag=True, help="Process 1 is a small init, which reaps orphans and forwards signals.")
@click.option("--cap-add", multiple=True, metavar="NAME", help="Add a capability, or ALL.")
@click.option("--cap-drop", multiple=True, metavar="NAME", help="Take a capability away, or ALL.")
@click.option(
    "--security-opt", "security_opts", multiple=True, metavar="OPTION",
    help="seccomp=FILE|unconfined, no-new-privileges[=false], apparmor=PROFILE, label=..., unmask=ALL|PATHS.",
)
@click.option("--privileged", is_flag=True, help="All capabilities and devices, nothing hidden, no seccomp filter.")
@click.option("--oom-score-adj", type=int, metavar="N", help="How early it is killed for want of memory: up to 1000.")
@click.option("-i", "--interactive", is_flag=True, help="Pass on standard input; it is empty without.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Kill everything after so many seconds (status 124).")
@click.option("--sysctl", "sysctls", multiple=True, metavar="NAME=VALUE", help="Set a sysctl of its namespaces.")
@click.option("--ulimit", "ulimits", multiple=True, metavar="NAME=SOFT[:HARD]", help="Limit a resource: getrlimit(2).")
@click.option("--pull", type=click.Choice(["missing", "always", "never"]), default="missing", help="When to pull it.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Of IMAGE, where it is not this machine's.")
@click.argument("command", nargs=-1, metavar="[IMAGE] [COMMAND]...", type=click.UNPROCESSED)
def run(
    command: tuple[str, ...], env: tuple[str, ...], interactive: bool, tty: bool, timeout: float | None, **options: Any
) -> int:
    """Run COMMAND in a container of IMAGE, and wait for it.

    With --host or --rootfs there is no IMAGE. Without COMMAND the image's own is run. Options after IMAGE or COMMAND
    belong to COMMAND.
    """
    from pycontain.cli.foreground import run as run_in_foreground
    from pycontain.cli.options import describe, environment

    if timeout is not None and not 0 < timeout < float("inf"):
        raise InvalidArgument(f"{timeout:g} is not a time limit in seconds")
    variables = environment(env, os.environ)
    if tty:
        variables = {"TERM": os.environ.get("TERM", "xterm"), **variables}
    image = None
    if not options["host"] and options["rootfs"] is None:
        if not command:
            raise click.UsageError("Missing argument 'IMAGE', or one of --host and --rootfs DIR.")
        image, command = command[0], command[1:]
    elif not command:
        raise click.UsageError("Missing argument 'COMMAND'.")
    container = describe(image=image, env=variables, **options)
    status, notice = run_in_foreground(container, command, interactive=interactive, terminal=tty, timeout=timeout)
    return status if notice is None else _complain(notice, status)


for _command in COMMANDS:
    group.add_command(_command)


@group.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def doctor(as_json: bool) -> int:
    """Say what this machine and user can do, and what helps where something is missing.

    The exit status is 1 when containers cannot be run.
    """
    from pycontain import doctor as examine

    report = examine()
    if as_json:
        import json

        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        click.echo(str(report))
    return 0 if report.ok else 1
