"""Builds the C core. Everything else about the project is in pyproject.toml.

The core is one cffi extension (stable ABI) that carries a second, tiny program inside it: the helper, a static
executable without libc that runs where no memory of the Python process may be seen (see pycontain/_native/helper.c).
"""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("pycontain/_native")
HELPER_FLAGS = (
    "-std=gnu11 -Os -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables "
    "-fno-pie -no-pie -fcf-protection=none -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,norelro -s"
)
if os.uname().machine != "x86_64":
    HELPER_FLAGS = HELPER_FLAGS.replace("-fcf-protection=none ", "")


class BuildWithHelper(build_ext):
    def build_extension(self, ext):
        helper = Path(self.build_temp).absolute() / "pycontain-helper"
        helper.parent.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        warnings = shlex.split(os.environ.get("PYCONTAIN_CFLAGS", ""))
        sources = [str(NATIVE / name) for name in ("helper.c", "plan.c")]
        flags = [flag for flag in warnings if not flag.startswith("-fsanitize")]
        subprocess.run([*compiler, *HELPER_FLAGS.split(), *flags, "-o", str(helper), *sources], check=True)
        ext.define_macros.append(("PC_HELPER_PATH", f'"{helper}"'))
        ext.extra_compile_args += ["-std=gnu11", "-fvisibility=hidden", "-fno-lto", *warnings]
        # bound at load: should a compiler make a call of memcpy or the like in the child, no linker may run there
        ext.extra_link_args += ["-Wl,-z,now", *(flag for flag in warnings if flag.startswith("-fsanitize"))]
        super().build_extension(ext)


setup(
    cffi_modules=["pycontain/_native/build.py:ffi"],
    cmdclass={"build_ext": BuildWithHelper},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
