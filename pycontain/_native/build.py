"""Builds the extension `pycontain._native._core` (cffi, API mode, stable ABI). Run by setup.py."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADERS = ("api.h", "bindings.h")
SOURCES = ("plan.c", "spawn.c", "bindings.c", "layers.c")

ffi = FFI()
ffi.cdef("\n".join((HERE / name).read_text() for name in HEADERS))
ffi.set_source(
    "pycontain._native._core",
    "#include <stddef.h>\n#include <stdint.h>\n" + "".join(f'#include "{name}"\n' for name in HEADERS),
    sources=[f"pycontain/_native/{name}" for name in SOURCES],
    depends=[f"pycontain/_native/{path.name}" for path in HERE.glob("*.[ch]") if path.stem != "_core"],
    include_dirs=["pycontain/_native"],
    py_limited_api=True,
)
