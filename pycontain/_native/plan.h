/* The plan executor: see api.h for the format. Freestanding: raw system calls only, no libc, no allocation. */
#ifndef PYCONTAIN_PLAN_H
#define PYCONTAIN_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "api.h"

/* Everything one execution needs. `pointers` is room for the argument and environment vectors. */
struct pc_execution {
    const struct pc_plan *plan;
    const struct pc_command *command;
    struct pc_context *context;
    const char **pointers;
    long (*fork)(int held); /* PC_FORK, or NULL where it is not allowed */
};

/* Runs the steps in order. Returns only when one fails (recorded in the context) or the last was not PC_EXEC. */
int pc_execute(const struct pc_execution *execution);

/* Sends one descriptor with some data over a socket. */
long pc_send_fd(int socket, int fd, const void *data, size_t size);

#endif
