/* Feeds damaged plans to the executor, which must refuse them or execute them without a memory error.
 *
 * The system calls are answered here: at random, but as the kernel would it reads and writes all the memory that they
 * name, so that the address sanitizer sees it. Everything follows from the seed and the number of a run.
 *
 *   fuzz_plan [-n RUNS] [-s SEED] [-f FIRST_RUN] INPUT...      an input: the size of the plan (4 bytes), plan, command
 *
 * Built with -fsanitize=fuzzer -DPC_LIBFUZZER it is a target for libFuzzer, with the same inputs as its corpus.
 */

#include <errno.h>
#include <linux/filter.h>
#include <linux/stat.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "plan.h"
#include "sys.h"

#define CALLS_LIMIT 100000L
#define VECTOR_LIMIT 100000

/* ---- failures ----------------------------------------------------------------------------------------------------- */

/* Both sanitizers abort, so that the number of the run can be told. */
const char *__asan_default_options(void)
{
    return "abort_on_error=1";
}

const char *__ubsan_default_options(void)
{
    return "abort_on_error=1:print_stacktrace=1";
}

static _Noreturn void fail(const char *message)
{
    fprintf(stderr, "fuzz_plan: %s\n", message);
    abort();
}

/* ---- random numbers: splitmix64 ----------------------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t any(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t below(uint64_t limit)
{
    return limit ? any() % limit : 0;
}

/* ---- the kernel --------------------------------------------------------------------------------------------------- */

static struct pc_context context;
static long calls;
static uint64_t odds; /* one call of so many is refused: in this run */
static volatile unsigned char sink;

static void reads(const void *memory, size_t size)
{
    for (size_t i = 0; i < size; i++)
        sink ^= ((const unsigned char *)memory)[i];
}

static void reads_text(const char *text)
{
    if (text)
        reads(text, strlen(text) + 1);
}

static void reads_vector(const char *const *vector)
{
    for (; *vector; vector++)
        reads_text(*vector);
}

static void writes(void *memory, size_t size)
{
    for (size_t i = 0; i < size; i++)
        ((unsigned char *)memory)[i] = (unsigned char)any();
}

struct pc_message_head { /* struct user_msghdr */
    void *name;
    int namelen;
    struct { void *base; size_t length; } *iov;
    size_t iovlen;
    void *control;
    size_t controllen;
    unsigned flags;
};

static void reads_message(const struct pc_message_head *message)
{
    reads(message, sizeof *message);
    reads(message->control, message->controllen);
    for (size_t i = 0; i < message->iovlen; i++)
        reads(message->iov[i].base, message->iov[i].length);
}

/* A directory, a file, or the null device. */
static void writes_file_type(struct statx *st)
{
    static const unsigned short types[] = { 0040000, 0100000, 0020000, 0020000, 0020000, 0020000 };

    writes(st, sizeof *st);
    st->stx_mode = types[below(6)];
    st->stx_rdev_major = 1;
    st->stx_rdev_minor = 3;
}

static void touch(long nr, long a, long b, long c, long d, long e)
{
    switch (nr) {
    case __NR_openat2: reads_text((char *)b); reads((void *)c, (size_t)d); break;
    case __NR_openat: case __NR_mkdirat: case __NR_mknodat: case __NR_faccessat: case __NR_open_tree: reads_text((char *)b); break;
    case __NR_symlinkat: reads_text((char *)a); reads_text((char *)c); break;
    case __NR_mount: reads_text((char *)a); reads_text((char *)b); reads_text((char *)c); break;
    case __NR_fsopen: case __NR_umount2: case __NR_chdir: reads_text((char *)a); break;
    case __NR_pivot_root: reads_text((char *)a); reads_text((char *)b); break;
    case __NR_fsconfig: reads_text((char *)c); reads_text((char *)d); break;
    case __NR_move_mount: reads_text((char *)b); reads_text((char *)d); break;
    case __NR_mount_setattr: reads_text((char *)b); reads((void *)d, (size_t)e); break;
    case __NR_statx: reads_text((char *)b); writes_file_type((void *)e); break;
    case __NR_write: reads((void *)b, (size_t)c); break;
    case __NR_sethostname: case __NR_setdomainname: reads((void *)a, (size_t)b); break;
    case __NR_setgroups: reads((void *)b, (size_t)a * sizeof(uint32_t)); break;
    case __NR_capset: reads((void *)a, 8); reads((void *)b, 24); break;
    case __NR_prlimit64: if (c) reads((void *)c, 16); if (d) writes((void *)d, 16); break;
    case __NR_rt_sigaction: reads((void *)b, 32); break;
    case __NR_rt_sigprocmask: reads((void *)b, 8); break;
    case __NR_sendmsg: reads_message((struct pc_message_head *)b); break;
    case __NR_ppoll: writes((char *)a + 6, 2); writes((void *)c, 16); break;
    case __NR_execve: reads_text((char *)a); reads_vector((void *)b); reads_vector((void *)c); break;
    case __NR_execveat: reads_text((char *)b); reads_vector((void *)c); reads_vector((void *)d); break;
    case __NR_seccomp: {
        const struct sock_fprog *program = (void *)c;
        reads(program->filter, program->len * sizeof(struct sock_filter));
        break;
    }
    }
}

long pc_fake_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
    static const short errors[] = { ENOENT, EEXIST, EAGAIN, EINTR, ENOTDIR, EACCES, EPERM, EINVAL, ENOSYS, ELOOP, EMFILE, ENOMEM };
    const long refused = -(long)errors[below(sizeof errors / sizeof *errors)];

    (void)f;
    if (++calls > CALLS_LIMIT)
        fail("the plan does not end");
    touch(nr, a, b, c, d, e);
    if (nr == __NR_futex && below(4) == 0)
        context.go = 1;
    if (nr == __NR_execve || nr == __NR_execveat || below(odds) == 0)
        return refused;
    switch (nr) {
    case __NR_openat2: return below(odds) > 1 ? (long)below(1024) : -ENOENT;
    case __NR_write: return c ? (long)below((uint64_t)c) + 1 : 0;
    case __NR_openat: case __NR_open_tree: case __NR_fsopen: case __NR_fsmount: case __NR_fcntl: case __NR_dup3:
    case __NR_socket: case __NR_ioctl: case __NR_keyctl: return (long)below(1024);
    case __NR_ppoll: return below(16) == 0;
    default: return 0;
    }
}

/* ---- one run ------------------------------------------------------------------------------------------------------- */

static long refused, executed, ended;

static long fake_fork(int held)
{
    (void)held;
    return below(4) ? 0 : -EAGAIN;
}

static void execute(const struct pc_plan *plan, const struct pc_command *command)
{
    const size_t count = (size_t)command->argc + command->envc + 2;
    struct pc_execution execution = { plan, command, &context, malloc(count * sizeof(char *)), below(2) ? fake_fork : NULL };
    int ret;

    memset(&context, 0, sizeof context);
    context.failed = context.detail = -1;
    for (int i = 0; i < PC_SLOTS; i++)
        context.fds[i] = below(4) ? (int)below(1024) : -1;
    calls = 0;
    odds = below(4) ? 8u << below(10) : UINT64_MAX;
    ret = pc_execute(&execution);
    free(execution.pointers);
    executed++;
    if (ret == 0 ? context.failed != -1
                 : context.failed < 0 || (uint32_t)context.failed >= plan->steps || context.error <= 0 || context.error > 4095)
        fail("this is not how a plan ends");
    ended += ret == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t plan_size;
    void *plan, *command;
    size_t command_size;

    if (size < sizeof plan_size)
        return 0;
    memcpy(&plan_size, data, sizeof plan_size);
    data += sizeof plan_size;
    size -= sizeof plan_size;
    if (plan_size > size)
        plan_size = (uint32_t)size;
    command_size = size - plan_size;
    random_state = 1469598103934665603u;
    for (size_t i = 0; i < size; i++)
        random_state = (random_state ^ data[i]) * 1099511628211u;
    /* copies of the exact size, so that the sanitizer sees one byte too many */
    plan = malloc(plan_size ? plan_size : 1);
    command = malloc(command_size ? command_size : 1);
    memcpy(plan, data, plan_size);
    memcpy(command, data + plan_size, command_size);
    if (pc_check_plan(plan, plan_size) == 0 && pc_check_command(command, command_size) == 0
        && (uint64_t)((struct pc_command *)command)->argc + ((struct pc_command *)command)->envc < VECTOR_LIMIT)
        execute(plan, command);
    else
        refused++;
    free(plan);
    free(command);
    return 0;
}

/* ---- damage -------------------------------------------------------------------------------------------------------- */

#ifndef PC_LIBFUZZER

struct input { unsigned char *data; size_t size; };

/* Another value for a field, of which those below `limit` are valid: mostly one of them. */
static uint64_t number_near(uint64_t value, uint64_t limit)
{
    static const uint64_t edges[] = { 0, 1, 255, 256, 511, 512, 1023, 1024, 4095, 4096, INT32_MAX, UINT32_MAX, 1ULL << 32, UINT64_MAX };

    switch (below(16)) {
    case 0: return edges[below(sizeof edges / sizeof *edges)];
    case 1: return value ^ 1ULL << below(64);
    case 2: return any();
    case 3: return limit;
    case 4: case 5: return value + below(9) - 4;
    default: return below(limit);
    }
}

static void damage_step(struct pc_step *step, const struct pc_step *steps, uint32_t count, uint32_t size)
{
    const uint32_t text = (uint32_t)(sizeof(struct pc_plan) + count * sizeof *steps), left = size - text;

    switch (below(12)) {
    case 0: step->op = (uint32_t)number_near(step->op, PC_OPS); break;
    case 1: step->flags = (uint32_t)any(); break;
    case 2: step->fd = (int32_t)number_near((uint64_t)step->fd, PC_SLOTS); break;
    case 3: step->fd2 = (int32_t)number_near((uint64_t)step->fd2, PC_SLOTS); break;
    case 4: step->out = (int32_t)number_near((uint64_t)step->out, PC_SLOTS); break;
    case 5: step->s1 = text + (uint32_t)number_near(step->s1 - text, left); break;
    case 6: step->s2 = text + (uint32_t)number_near(step->s2 - text, left); break;
    case 7: step->len = (uint32_t)number_near(step->len, left); break;
    case 8: step->n1 = number_near(step->n1, PC_SLOTS); break;
    case 9: step->n2 = number_near(step->n2, 20); break;
    case 10: step->n3 = number_near(step->n3, 20); break;
    default: *step = steps[below(count)]; break;
    }
}

/* Some of the text becomes a long path, of slashes, dots and letters, which a step is given. */
static void damage_text(unsigned char *data, struct pc_step *steps, uint32_t count, uint32_t size)
{
    static const char *const alphabets[] = { "//..ab", "///////a", "/aaaaaaa", "/" };
    static const uint32_t ops[] = { PC_OPEN, PC_ATTACH, PC_MKDIRS, PC_MKDIRS, PC_OVERLAY, PC_CHDIR };
    const char *alphabet = alphabets[below(4)];
    uint64_t at = size - below(size - sizeof(struct pc_plan) - count * sizeof *steps) - 1, length = below(2) ? below(40) : 6000;
    struct pc_step *step = &steps[below(count)];

    if (!count)
        return;
    step->s1 = (uint32_t)at;
    if (below(2))
        step->op = ops[below(sizeof ops / sizeof *ops)];
    for (; length && at < size; length--, at++)
        data[at] = (unsigned char)alphabet[below(strlen(alphabet))];
}

static void damage_plan(unsigned char *data, uint32_t size)
{
    struct pc_plan *plan = (struct pc_plan *)data;
    struct pc_step *steps = (struct pc_step *)(plan + 1);
    uint32_t count = (uint32_t)((size - sizeof *plan) / sizeof *steps);

    count = plan->steps < count ? plan->steps : count;
    for (uint64_t times = below(6); count && times; times--)
        damage_step(&steps[below(count)], steps, count, size);
    if (below(4) == 0)
        damage_text(data, steps, count, size);
    if (below(16) == 0)
        data[below(size)] ^= (unsigned char)(1 << below(8));
    if (below(32) == 0)
        plan->steps = (uint32_t)number_near(plan->steps, count + 2);
    if (below(16)) {
        plan->size = size;
        data[size - 1] = 0;
    }
}

static void damage_command(unsigned char *data, uint32_t size)
{
    struct pc_command *command = (struct pc_command *)data;

    if (below(16) == 0)
        command->argc = (uint32_t)number_near(command->argc, 20);
    if (below(16) == 0)
        command->envc = (uint32_t)number_near(command->envc, 20);
    if (below(16) == 0)
        command->candidates = (uint32_t)number_near(command->candidates, 20);
    if (below(8) == 0)
        data[below(size)] ^= (unsigned char)(1 << below(8));
    if (below(16)) {
        command->size = size;
        data[size - 1] = 0;
    }
}

/* A damaged copy of an input: cut or made longer, then changed field by field. Header and end are mostly kept valid. */
static struct input damaged(const struct input *from)
{
    uint32_t old_size, plan_size, command_size, kept;
    struct input result;
    unsigned char *plan, *command;

    memcpy(&old_size, from->data, sizeof old_size);
    plan_size = old_size;
    command_size = (uint32_t)(from->size - sizeof old_size - old_size);
    if (below(16) == 0)
        plan_size = (uint32_t)below(old_size) + 1;
    else if (below(4) == 0)
        plan_size += (uint32_t)below(8000);
    if (plan_size < sizeof(struct pc_plan))
        plan_size = sizeof(struct pc_plan);
    kept = plan_size < old_size ? plan_size : old_size;
    plan = calloc(1, plan_size);
    command = malloc(command_size);
    memcpy(plan, from->data + sizeof old_size, kept);
    memcpy(command, from->data + sizeof old_size + old_size, command_size);
    damage_plan(plan, plan_size);
    damage_command(command, command_size);
    result.size = sizeof plan_size + plan_size + command_size;
    result.data = malloc(result.size);
    memcpy(result.data, &plan_size, sizeof plan_size);
    memcpy(result.data + sizeof plan_size, plan, plan_size);
    memcpy(result.data + sizeof plan_size + plan_size, command, command_size);
    free(plan);
    free(command);
    return result;
}

static struct input read_input(const char *path)
{
    struct input input = { NULL, 0 };
    uint32_t plan_size;
    FILE *file = fopen(path, "rb");
    long size;

    if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0) {
        perror(path);
        exit(2);
    }
    rewind(file);
    input.size = (size_t)size;
    input.data = malloc(input.size + 1);
    if (fread(input.data, 1, input.size, file) != input.size || input.size < sizeof plan_size + sizeof(struct pc_plan)
        || (memcpy(&plan_size, input.data, sizeof plan_size), plan_size < sizeof(struct pc_plan))
        || input.size < sizeof plan_size + plan_size + sizeof(struct pc_command)) {
        fprintf(stderr, "%s: not an input\n", path);
        exit(2);
    }
    fclose(file);
    return input;
}

static uint64_t seed;
static long run;

static void tell_run(int signal)
{
    (void)signal;
    fprintf(stderr, "fuzz_plan: it was run %ld of seed %llu: -s %llu -f %ld -n 1\n", run, (unsigned long long)seed,
            (unsigned long long)seed, run);
}

int main(int argc, char **argv)
{
    long runs = 200000, first = 0;
    int option, count;
    struct input *inputs;

    seed = (uint64_t)time(NULL);
    while ((option = getopt(argc, argv, "n:s:f:")) != -1)
        switch (option) {
        case 'n': runs = atol(optarg); break;
        case 's': seed = strtoull(optarg, NULL, 10); break;
        case 'f': first = atol(optarg); break;
        default: return 2;
        }
    count = argc - optind;
    if (count < 1) {
        fputs("fuzz_plan: no inputs\n", stderr);
        return 2;
    }
    printf("seed %llu\n", (unsigned long long)seed);
    fflush(stdout);
    signal(SIGABRT, tell_run);
    inputs = calloc((size_t)count, sizeof *inputs);
    for (int i = 0; i < count; i++) {
        inputs[i] = read_input(argv[optind + i]);
        LLVMFuzzerTestOneInput(inputs[i].data, inputs[i].size);
    }
    if (executed != count) {
        fputs("fuzz_plan: an input is not a valid plan\n", stderr);
        return 1;
    }
    for (run = first; run < first + runs; run++) {
        struct input input;

        random_state = seed * 0x2545f4914f6cdd1du + (uint64_t)run;
        input = damaged(&inputs[below((uint64_t)count)]);
        LLVMFuzzerTestOneInput(input.data, input.size);
        free(input.data);
    }
    printf("%ld plans refused, %ld executed, %ld of them to the end\n", refused, executed, ended);
    for (int i = 0; i < count; i++)
        free(inputs[i].data);
    free(inputs);
    return 0;
}

#endif
