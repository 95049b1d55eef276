/* A library to be preloaded by user-mode Linux on processors with AMX.
 *
 * The kernel takes a process's floating point state (PTRACE_SETREGSET of NT_X86_XSTATE) only as a whole, and answers
 * EFAULT to less (xstateregs_set in arch/x86/kernel/fpu/regset.c). User-mode Linux before 6.13 has a buffer for the
 * state up to AVX-512, 2696 bytes, and stops with "ptrace set fp regs failed". This completes what it gives by the
 * state that the process has: of AMX, which is last, each process keeps its own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static long (*libc_ptrace)(int, ...);

/* Not on the stack: the stacks on which user-mode Linux runs are a few pages. It has one thread that traces. */
static char whole[1 << 15] __attribute__((aligned(64)));

__attribute__((constructor)) static void find(void)
{
    *(void **)&libc_ptrace = dlsym(RTLD_NEXT, "ptrace");
}

static long set_xstate(int pid, void *type, struct iovec *given)
{
    struct iovec all = { whole, sizeof whole };

    if (libc_ptrace(PTRACE_GETREGSET, pid, type, &all) < 0)
        return -1;
    if (given->iov_len >= all.iov_len)
        return libc_ptrace(PTRACE_SETREGSET, pid, type, given);
    memcpy(whole, given->iov_base, given->iov_len);
    return libc_ptrace(PTRACE_SETREGSET, pid, type, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;

    va_start(arguments, request);
    int pid = va_arg(arguments, int);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE)
        return set_xstate(pid, address, data);
    return libc_ptrace(request, pid, address, data);
}
