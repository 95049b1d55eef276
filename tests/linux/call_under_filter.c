/* Installs a seccomp filter, then makes system calls and prints the errno of each (0: it succeeded), or executes a program.
 *
 *   call_under_filter FILTER syscall|int80 NUMBER,A0,A1,A2,A3,A4,A5 ...
 *   call_under_filter FILTER exec PROGRAM ARGUMENT ...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct sock_filter filter[4096];

static long int80(long number, const unsigned long *a)
{
#ifdef __x86_64__
    long result;
    /* ebp, the sixth argument, is left alone: no call here has six. */
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3]), "D"(a[4])
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
#else
    return -ENOSYS;
#endif
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    FILE *file = fopen(argv[1], "rb");
    if (!file)
        return 3;
    size_t length = fread(filter, sizeof filter[0], 4096, file);
    fclose(file);
    struct sock_fprog program = {.len = length, .filter = filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) {
        perror("seccomp");
        return 4;
    }
    if (!strcmp(argv[2], "exec")) {
        execv(argv[3], argv + 3);
        return 5;
    }
    for (int i = 3; i < argc; i++) {
        char *at = argv[i];
        unsigned long v[7] = {0};
        for (int k = 0; k < 7; k++, at++)
            v[k] = strtoul(at, &at, 0);
        int result;
        if (!strcmp(argv[2], "int80")) {
            long answer = int80((long)v[0], v + 1);
            result = answer < 0 && answer > -4096 ? (int)-answer : 0;
        } else {
            result = syscall((long)v[0], v[1], v[2], v[3], v[4], v[5], v[6]) == -1 ? errno : 0;
        }
        printf("%d\n", result);
    }
    return 0;
}
