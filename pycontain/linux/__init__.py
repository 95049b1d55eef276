"""Typed wrappers of the kernel's interfaces, without policy.

One module for each noun: `namespaces`, `mounts`, `mountinfo`, `paths`, `pidfd`, `prctl`, `users` and so on. Functions
carry the names of the system calls, and raise `OSError` whose message names the call and its arguments.
"""
