/* Entries of a layer: headers of tar are read, files are created (see bindings.h). Called from ordinary Python threads.
 *
 * What is read here was written by an adversary; what is created here is one name in a directory that the caller has
 * resolved, never a path. Policy (names, whiteouts, parents, limits) is in pycontain/layers/apply.py.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "bindings.h"

#define BLOCK 512
#define LATEST (INT64_C(1) << 40) /* seconds; also in pycontain/layers/apply.py */

/* ---- headers. Fields by their offsets in ustar, see POSIX pax(1), "ustar Interchange Format" */

enum { NAME = 0, MODE = 100, UID = 108, GID = 116, SIZE = 124, MTIME = 136, CHECKSUM = 148, TYPE = 156, LINK = 157,
       MAGIC = 257, MAJOR = 329, MINOR = 337, PREFIX = 345 };

/* Digits to base 8, with blanks before and blanks or NUL after them; or GNU's base 256, whose first bit is set. */
int pc_tar_number(const char *field, int length, long long *value)
{
    const unsigned char *text = (const unsigned char *)field;
    uint64_t number = 0;
    int i = 0;

    if (text[0] & 0x80) { /* two's complement; the first bit is the mark, the second the sign */
        unsigned char inverted = text[0] & 0x40 ? 0xff : 0;
        for (i = 0; i < length; i++) {
            if (number >> 55)
                return PC_TAR_NUMBER;
            number = number << 8 | ((text[i] ^ inverted) & (i ? 0xff : 0x7f));
        }
        *value = inverted ? ~(long long)number : (long long)number;
        return 0;
    }
    while (i < length && text[i] == ' ')
        i++;
    for (; i < length && text[i] >= '0' && text[i] <= '7'; i++) {
        if (number >> 60)
            return PC_TAR_NUMBER;
        number = number << 3 | (uint64_t)(text[i] - '0');
    }
    while (i < length && (text[i] == ' ' || text[i] == 0))
        i++;
    *value = (long long)number;
    return i == length ? 0 : PC_TAR_NUMBER;
}

static bool checksum_matches(const unsigned char *block)
{
    long long expected;
    long plain = 0, as_signed = 0; /* some old programs summed signed characters */

    if (pc_tar_number((const char *)block + CHECKSUM, 8, &expected))
        return false;
    for (int i = 0; i < BLOCK; i++) {
        unsigned char byte = i >= CHECKSUM && i < CHECKSUM + 8 ? ' ' : block[i];
        plain += byte;
        as_signed += (signed char)byte;
    }
    return expected == plain || expected == as_signed;
}

static int append(char *to, int at, const char *field, size_t size)
{
    size_t length = strnlen(field, size);

    memcpy(to + at, field, length);
    return at + (int)length;
}

int pc_tar_header(const char *block, struct pc_tar_header *header)
{
    bool posix = !memcmp(block + MAGIC, "ustar\0", 6), gnu = !memcmp(block + MAGIC, "ustar ", 6);
    bool star = posix && !memcmp(block + 508, "tar\0", 4);
    int length = 0;

    if (!checksum_matches((const unsigned char *)block))
        return PC_TAR_CHECKSUM;
    if (pc_tar_number(block + MODE, 8, &header->mode) || pc_tar_number(block + UID, 8, &header->uid)
        || pc_tar_number(block + GID, 8, &header->gid) || pc_tar_number(block + SIZE, 12, &header->size)
        || pc_tar_number(block + MTIME, 12, &header->mtime))
        return PC_TAR_NUMBER;
    header->type = (unsigned char)block[TYPE];
    header->major = header->minor = 0;
    if ((header->type == '3' || header->type == '4') /* elsewhere the fields may hold anything */
        && (pc_tar_number(block + MAJOR, 8, &header->major) || pc_tar_number(block + MINOR, 8, &header->minor)))
        return PC_TAR_NUMBER;
    if (posix && block[PREFIX]) {
        length = append(header->name, 0, block + PREFIX, star ? 131 : 155);
        header->name[length++] = '/';
    }
    header->name_length = append(header->name, length, block + NAME, 100);
    header->link_length = append(header->link, 0, block + LINK, 100);
    header->gnu = gnu;
    return 0;
}

/* ---- creating */

static long failed(struct pc_outcome *outcome, const char *call)
{
    outcome->call = call;
    return -errno;
}

/* Owner, mode, times: in this order, because a change of the owner clears setuid. */
long pc_set_attributes(int fd, const struct pc_attributes *attributes, struct pc_outcome *outcome)
{
    struct timespec time = { attributes->seconds, attributes->nanoseconds };

    if (attributes->keep_owner && fchown(fd, attributes->uid, attributes->gid))
        return failed(outcome, "fchown");
    if (fchmod(fd, attributes->mode))
        return failed(outcome, "fchmod");
    if (futimens(fd, (struct timespec[]){ time, time }))
        return failed(outcome, "futimens");
    return 0;
}

static long set_attributes_at(int parent, const char *name, bool is_link, const struct pc_attributes *attributes,
                              struct pc_outcome *outcome)
{
    struct timespec time = { attributes->seconds, attributes->nanoseconds };

    if (attributes->keep_owner
        && fchownat(parent, name, attributes->uid, attributes->gid, AT_SYMLINK_NOFOLLOW))
        return failed(outcome, "fchownat");
    /* fchmodat follows links, but this name was made by the caller a moment ago, in a tree that nobody else changes */
    if (!is_link && fchmodat(parent, name, attributes->mode, 0))
        return failed(outcome, "fchmodat");
    if (utimensat(parent, name, (struct timespec[]){ time, time }, AT_SYMLINK_NOFOLLOW))
        return failed(outcome, "utimensat");
    return 0;
}

/* 0 when the name may be created now. A directory in the way is left, with EISDIR: the caller knows what to do. */
static long make_way(int parent, const char *name, struct pc_outcome *outcome)
{
    return unlinkat(parent, name, 0) ? failed(outcome, "unlinkat") : 0;
}

static long write_all(int fd, const char *data, size_t size, struct pc_outcome *outcome)
{
    while (size) {
        ssize_t written = write(fd, data, size);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return failed(outcome, "write");
        }
        data += written;
        size -= (size_t)written;
    }
    return 0;
}

static int open_new(int parent, const char *name)
{
    return openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, 0600);
}

long pc_open_new(int parent, const char *name, struct pc_outcome *outcome)
{
    int fd = open_new(parent, name);
    long result;

    if (fd < 0 && errno == EEXIST) {
        if ((result = make_way(parent, name, outcome)) < 0)
            return result;
        fd = open_new(parent, name);
    }
    return fd < 0 ? failed(outcome, "openat") : fd;
}

long pc_create_file(int parent, const char *name, const struct pc_attributes *attributes, const char *data,
                    size_t size, struct pc_outcome *outcome)
{
    long fd = pc_open_new(parent, name, outcome), result;

    if (fd < 0)
        return fd;
    result = write_all((int)fd, data, size, outcome);
    if (result == 0)
        result = pc_set_attributes((int)fd, attributes, outcome);
    if (close((int)fd) && result == 0)
        result = failed(outcome, "close");
    return result;
}

long pc_create_symlink(int parent, const char *name, const struct pc_attributes *attributes, const char *target,
                       struct pc_outcome *outcome)
{
    long result;

    if (symlinkat(target, parent, name)) {
        if (errno != EEXIST)
            return failed(outcome, "symlinkat");
        if ((result = make_way(parent, name, outcome)) < 0)
            return result;
        if (symlinkat(target, parent, name))
            return failed(outcome, "symlinkat");
    }
    return set_attributes_at(parent, name, true, attributes, outcome);
}

/* A device or a fifo, by the type in attributes->mode. */
long pc_create_node(int parent, const char *name, const struct pc_attributes *attributes, unsigned int major,
                    unsigned int minor, struct pc_outcome *outcome)
{
    unsigned int type = attributes->mode & S_IFMT;
    long result;

    if (mknodat(parent, name, type | 0600, makedev(major, minor))) {
        if (errno != EEXIST)
            return failed(outcome, "mknodat");
        if ((result = make_way(parent, name, outcome)) < 0)
            return result;
        if (mknodat(parent, name, type | 0600, makedev(major, minor)))
            return failed(outcome, "mknodat");
    }
    return set_attributes_at(parent, name, false, attributes, outcome);
}

long pc_create_link(int parent, const char *name, int target_parent, const char *target, struct pc_outcome *outcome)
{
    long result;

    if (linkat(target_parent, target, parent, name, 0) == 0)
        return 0;
    if (errno != EEXIST)
        return failed(outcome, "linkat");
    if ((result = make_way(parent, name, outcome)) < 0)
        return result;
    return linkat(target_parent, target, parent, name, 0) ? failed(outcome, "linkat") : 0;
}

/* The descriptor of a directory that is new (outcome->existed is 0) or was there. */
long pc_open_directory(int parent, const char *name, struct pc_outcome *outcome)
{
    int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, fd;
    long result;

    outcome->existed = 0;
    if (mkdirat(parent, name, 0700)) {
        if (errno != EEXIST)
            return failed(outcome, "mkdirat");
        if ((fd = openat(parent, name, flags)) >= 0) {
            outcome->existed = 1;
            return fd;
        }
        if (errno != ENOTDIR && errno != ELOOP)
            return failed(outcome, "openat");
        if ((result = make_way(parent, name, outcome)) < 0)
            return result;
        if (mkdirat(parent, name, 0700))
            return failed(outcome, "mkdirat");
    }
    fd = openat(parent, name, flags);
    return fd < 0 ? failed(outcome, "openat") : fd;
}

/* ---- many small files at once */

static bool is_one_component(const char *name, int length)
{
    return length > 0 && length <= 255 && !memchr(name, '/', (size_t)length) && name[0] != '.';
}

/* Whether it is a regular file right in the directory that has the prefix, with nothing about it that needs thought. A
 * name with a dot at its beginning does: it may be a whiteout. */
static bool is_plain(const struct pc_tar_header *header, const struct pc_files *files)
{
    int prefix = (int)files->prefix_length;

    return header->type == '0' && header->name_length >= prefix && !memcmp(header->name, files->prefix, (size_t)prefix)
        && is_one_component(header->name + prefix, header->name_length - prefix) && header->mode >= 0
        && header->uid >= 0 && header->uid < UINT32_MAX && header->gid >= 0 && header->gid < UINT32_MAX
        && header->mtime > -LATEST && header->mtime < LATEST;
}

/* Creates one file, which must be new there. */
static bool create_plain(int parent, struct pc_tar_header *header, const struct pc_files *files, const char *data)
{
    struct pc_attributes attributes = { (unsigned int)header->mode & 07777, (unsigned int)header->uid,
                                        (unsigned int)header->gid, files->keep_owner, header->mtime, 0 };
    struct pc_outcome ignored;
    int fd = open_new(parent, header->name + files->prefix_length);
    bool done;

    if (fd < 0)
        return false;
    done = write_all(fd, data, (size_t)header->size, &ignored) == 0 && pc_set_attributes(fd, &attributes, &ignored) == 0;
    return close(fd) == 0 && done;
}

static bool remember(struct pc_files *files, const char *name, size_t length)
{
    if (!files->names)
        return true;
    if (files->names_size - files->names_used < length + 1)
        return false;
    memcpy(files->names + files->names_used, name, length);
    files->names[files->names_used + length] = 0;
    files->names_used += length + 1;
    return true;
}

/* What is not plain, not complete or fails is left to the caller, who finds out why. */
size_t pc_create_files(int parent, const char *tar, size_t size, struct pc_files *files)
{
    struct pc_tar_header header;
    size_t at = 0;

    files->count = files->bytes = 0;
    files->names_used = 0;
    while (files->count < files->most && size - at >= BLOCK) {
        size_t left = size - at - BLOCK, stored;

        if (pc_tar_header(tar + at, &header) || header.size < 0 || (size_t)header.size > left
            || !is_plain(&header, files))
            break;
        stored = ((size_t)header.size + BLOCK - 1) / BLOCK * BLOCK;
        header.name[header.name_length] = 0;
        if (stored > left
            || !remember(files, header.name + files->prefix_length,
                         (size_t)header.name_length - files->prefix_length)
            || !create_plain(parent, &header, files, tar + at + BLOCK))
            break;
        at += BLOCK + stored;
        files->count++;
        files->bytes += header.size;
    }
    return at;
}
