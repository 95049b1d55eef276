"""Runs a command in a throw-away Debian with systemd as process 1: `python3 tools/vm [options] -- COMMAND...`

It ends with the command's exit status; with 124 when the time was over, and 125 when there was no machine to run it.
"""

from __future__ import annotations

import argparse
import sys

import image
import machine
import native
import uml
from job import Job, share
from machine import MachineError

BACKENDS = {"native": native.launch, "uml": uml.launch}


def main() -> int:
    options = _parser().parse_args()
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        _parser().error("no command")
    try:
        job = Job(options.command, options.share, options.user)
        return machine.run(BACKENDS[options.backend], image.ready(), job, options.timeout)
    except MachineError as error:
        print(f"tools/vm: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/vm", usage="python3 tools/vm [options] -- COMMAND...",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--backend", choices=BACKENDS, default="native",
        help="native (default): this kernel with its cgroup hierarchies, as root. uml: user-mode Linux, with cgroup v2",
    )
    parser.add_argument(
        "--user", action="store_true", help="run the command in the login session of a user without privileges"
    )
    parser.add_argument(
        "--share", action="append", default=[], type=share, metavar="DIRECTORY:PATH",
        help="have a copy of the directory at the path, without hidden directories; the first is the working directory",
    )
    parser.add_argument(
        "--timeout", type=float, default=600, metavar="SECONDS", help="end the machine after this time (default: 600)"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


if __name__ == "__main__":
    sys.exit(main())
