/* Raw system calls, for code that runs between clone and exec in memory shared with Python, or without libc.
 *
 * Nothing here touches errno or any other thread-local state: each call returns the kernel's answer, -errno on failure.
 */
#ifndef PYCONTAIN_SYS_H
#define PYCONTAIN_SYS_H

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

#if defined(PC_FAKE_SYSCALLS) /* the fuzz target: the executor runs, the kernel is not asked */
long pc_fake_syscall(long nr, long a, long b, long c, long d, long e, long f);
static inline long pc_syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    return pc_fake_syscall(nr, a, b, c, d, e, f);
}
#elif defined(__x86_64__)
static inline long pc_syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
#elif defined(__aarch64__)
static inline long pc_syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "pycontain knows the system call convention of x86_64 and aarch64 only"
#endif

/* PC_CALL(name, up to six arguments), each a number or a pointer. */
#define PC_ARG(x) ((long)(x))
#define PC_CALL7(nr, a, b, c, d, e, f, ...) \
    pc_syscall6(nr, PC_ARG(a), PC_ARG(b), PC_ARG(c), PC_ARG(d), PC_ARG(e), PC_ARG(f))
#define PC_CALL(name, ...) PC_CALL7(__NR_##name, __VA_ARGS__ __VA_OPT__(, ) 0, 0, 0, 0, 0, 0)

/* Since Linux 5.2 all architectures share the numbers of new system calls; older headers may lack the names. */
#ifndef __NR_open_tree
#define __NR_open_tree 428
#define __NR_move_mount 429
#define __NR_fsopen 430
#define __NR_fsconfig 431
#define __NR_fsmount 432
#endif
#ifndef __NR_clone3
#define __NR_clone3 435
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif
#ifndef __NR_openat2
#define __NR_openat2 437
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif

static inline int pc_futex_wait(int32_t *word, int32_t value, long milliseconds)
{
    struct { int64_t sec, nsec; } limit = { milliseconds / 1000, milliseconds % 1000 * 1000000 };
    return (int)PC_CALL(futex, word, 0 /* FUTEX_WAIT, not private: the kernel wakes child_tid so */, value, &limit);
}

static inline void pc_futex_wake(int32_t *word)
{
    PC_CALL(futex, word, 1 /* FUTEX_WAKE */, 1);
}

#endif
