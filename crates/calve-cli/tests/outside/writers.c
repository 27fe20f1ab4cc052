/* Writes one file over and over, in one of many ways, so that a test can say of any bytes of it whether they were
 * ever there.
 *
 *   writers KIND FILE ASIDE CONTROL BYTES UNITS
 *
 * ASIDE is an empty folder outside of the tree, on the same filesystem. CONTROL is a file of two numbers: the version
 * that was begun last, and the version that was finished last. Commands come on standard input, one a line, and each
 * is answered with "ok" when it is done:
 *
 *   run MICROSECONDS   writes versions for that long
 *   one                writes one version
 *   clean              waits until the file is on the disk, so that its pages are clean
 *   begin, end         `slow` only: a write that stays in the middle between the two
 *
 * A version consists of cells of eight bytes: the low 16 bits are the number of the cell, the next 40 the version, the
 * highest 8 are MARK. Version V of a file of N units changes the first cell of unit V mod N; with N = 1, all cells.
 *
 * Exit status: 77 where this machine or this filesystem cannot write in that way, and says why on standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MARK 0xcaULL
#define RECORD_CELLS 8
#define RECORDS 16384

static const char *kind, *file, *aside;
static char other[4096], twin[4096];
static size_t bytes, cells, units, page = 4096;
static int fd = -1, other_fd = -1;
static uint64_t *buffer, *map;
static struct {
    uint64_t begun, finished;
} *control;

static void cannot(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(77);
}

static void failed(const char *what) {
    fprintf(stderr, "writers %s: %s: %s\n", kind, what, strerror(errno));
    exit(1);
}

#define TRY(call)                                                                                                      \
    ({                                                                                                                 \
        long result_ = (long)(call);                                                                                   \
        if (result_ < 0) failed(#call);                                                                                \
        result_;                                                                                                       \
    })

static int is(const char *name) { return !strcmp(kind, name); }

static uint64_t cell(size_t at, uint64_t version) { return MARK << 56 | version << 16 | (at & 0xffff); }

static void fill(uint64_t version) {
    for (size_t at = 0; at < cells; at++) buffer[at] = cell(at, version);
}

static void write_all(int to, const void *from, size_t length, off_t offset) {
    while (length) {
        ssize_t count = TRY(pwrite(to, from, length, offset));
        from = (const char *)from + count, length -= count, offset += count;
    }
}

static uint64_t seed = 0x9e3779b97f4a7c15;

static uint64_t below(uint64_t limit) {
    seed ^= seed >> 12, seed ^= seed << 25, seed ^= seed >> 27;
    return (seed * 0x2545f4914f6cdd1d >> 16) % limit;
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000ULL + time.tv_nsec / 1000;
}

/* A whole new file under the name `other`. */
static int fresh(uint64_t version) {
    int new = TRY(open(other, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    fill(version);
    write_all(new, buffer, bytes, 0);
    return new;
}

/* io_uring, by its system calls. */
static int ring = -1;
static unsigned *sq_tail, *sq_mask, *sq_array, *cq_head, *cq_tail, *cq_mask;
static struct io_uring_sqe *sqes;
static struct io_uring_cqe *cqes;
#define PIECES 8

static void ring_open(void) {
    struct io_uring_params params = {0};
    ring = syscall(__NR_io_uring_setup, PIECES, &params);
    if (ring < 0) cannot("io_uring_setup");
    char *sq = mmap(0, params.sq_off.array + params.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                    IORING_OFF_SQ_RING);
    char *cq = mmap(0, params.cq_off.cqes + params.cq_entries * sizeof *cqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
                    IORING_OFF_CQ_RING);
    sqes = mmap(0, params.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
    if (sq == MAP_FAILED || cq == MAP_FAILED || sqes == MAP_FAILED) failed("mmap of the ring");
    sq_tail = (unsigned *)(sq + params.sq_off.tail), sq_mask = (unsigned *)(sq + params.sq_off.ring_mask);
    sq_array = (unsigned *)(sq + params.sq_off.array);
    cq_head = (unsigned *)(cq + params.cq_off.head), cq_tail = (unsigned *)(cq + params.cq_off.tail);
    cq_mask = (unsigned *)(cq + params.cq_off.ring_mask), cqes = (void *)(cq + params.cq_off.cqes);
}

static void ring_write(void) {
    size_t piece = bytes / PIECES;
    for (unsigned at = 0; at < PIECES; at++) {
        unsigned tail = *sq_tail, slot = tail & *sq_mask;
        sqes[slot] = (struct io_uring_sqe){
            .opcode = IORING_OP_WRITE,
            .fd = fd,
            .addr = (uintptr_t)buffer + at * piece,
            .len = piece,
            .off = at * piece,
            /* Every other one in the kernel's own threads. */
            .flags = at % 2 ? IOSQE_ASYNC : 0,
            .user_data = at,
        };
        sq_array[slot] = slot;
        __atomic_store_n(sq_tail, tail + 1, __ATOMIC_RELEASE);
    }
    TRY(syscall(__NR_io_uring_enter, ring, PIECES, PIECES, IORING_ENTER_GETEVENTS, 0, 0));
    for (int at = 0; at < PIECES; at++) {
        unsigned head = *cq_head;
        if (head == __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) failed("io_uring: too few answers");
        struct io_uring_cqe *answer = &cqes[head & *cq_mask];
        if (answer->res < 0) errno = -answer->res, failed("io_uring");
        size_t start = answer->user_data * piece + answer->res;
        write_all(fd, (char *)buffer + start, piece - answer->res, start);
        __atomic_store_n(cq_head, head + 1, __ATOMIC_RELEASE);
    }
}

/* One version. The numbers around it are what the test holds against what it finds. */
static void version(void) {
    uint64_t v = control->finished + 1;
    __atomic_store_n(&control->begun, v, __ATOMIC_SEQ_CST);
    if (map) {
        size_t at = v % units * (cells / units);
        if (units > 1 || is("mapped-one")) {
            __atomic_store_n(&map[at], cell(at, v), __ATOMIC_SEQ_CST);
        } else {
            for (at = 0; at < cells; at++) __atomic_store_n(&map[at], cell(at, v), __ATOMIC_RELAXED);
        }
        if (is("mapped-synced")) {
            char *start = (char *)map + (at * sizeof *map) / page * page;
            TRY(msync(start, page, MS_SYNC));
        }
    } else if (is("in-place") || is("direct")) {
        fill(v);
        write_all(fd, buffer, bytes, 0);
    } else if (is("last-byte")) {
        ((uint8_t *)buffer)[bytes - 1] = v;
        write_all(fd, buffer, bytes, 0);
    } else if (is("io-uring")) {
        fill(v);
        ring_write();
    } else if (is("append")) {
        uint64_t record[RECORD_CELLS];
        for (size_t at = 0; at < RECORD_CELLS; at++) record[at] = cell(at, v);
        if (v % RECORDS == 1 && v > 1) {
            int new = TRY(open(other, O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644));
            TRY(write(new, record, sizeof record));
            TRY(rename(other, file));
            close(fd), fd = new;
        } else {
            TRY(write(fd, record, sizeof record));
        }
    } else if (is("truncate")) {
        fill(v);
        TRY(ftruncate(fd, 0));
        write_all(fd, buffer, bytes, 0);
    } else if (is("rename")) {
        int new = fresh(v);
        TRY(rename(other, file));
        close(new);
    } else if (is("exchange")) {
        close(fresh(v));
        TRY(syscall(SYS_renameat2, AT_FDCWD, other, AT_FDCWD, file, 2 /* RENAME_EXCHANGE */));
        TRY(unlink(other));
    } else if (is("link")) {
        close(fresh(v));
        TRY(rename(other, file));
        TRY(link(file, other));
        TRY(rename(other, twin));
    } else if (is("copy-range")) {
        fill(v);
        write_all(other_fd, buffer, bytes, 0);
        loff_t from = 0, to = 0;
        while ((size_t)to < bytes) {
            if (!TRY(copy_file_range(other_fd, &from, fd, &to, bytes - to, 0))) failed("copy_file_range ends");
        }
    } else if (is("clone-into")) {
        fill(v);
        write_all(other_fd, buffer, bytes, 0);
        TRY(ioctl(fd, FICLONE, other_fd));
    } else {
        errno = 0, failed("no such kind");
    }
    __atomic_store_n(&control->finished, v, __ATOMIC_SEQ_CST);
}

/* Between versions, so that there are moments without a write as well. */
static void rest(uint64_t done) {
    if (is("mapped") || is("append")) {
        if (done % 256 == 0) usleep(below(100));
    } else if (is("mapped-one")) {
        usleep(below(3000));
    } else if (!is("mapped-synced")) {
        usleep(below(below(4) ? 500 : 20000));
    }
}

/* A write whose last page the kernel has to wait for: until `end`, it is under way, with the file's times set and
 * all but the last page written. */
static int faults = -1;
static pthread_t writing;

static void *slow_write(void *unused) {
    write_all(fd, buffer, bytes, 0);
    return unused;
}

static void begin(void) {
    uint64_t v = control->finished + 1;
    control->begun = v;
    faults = syscall(__NR_userfaultfd, O_CLOEXEC);
    if (faults < 0) cannot("userfaultfd");
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(faults, UFFDIO_API, &api)) cannot("UFFDIO_API");
    fill(v - 1);
    char *last = (char *)buffer + bytes - page;
    madvise(last, page, MADV_DONTNEED);
    struct uffdio_register range = {.range = {(uintptr_t)last, page}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(faults, UFFDIO_REGISTER, &range)) cannot("UFFDIO_REGISTER");
    if (pthread_create(&writing, 0, slow_write, 0)) failed("pthread_create");
    struct uffd_msg message;
    TRY(read(faults, &message, sizeof message));
}

static void end(void) {
    static uint64_t last[4096 / 8] __attribute__((aligned(4096)));
    uint64_t v = control->begun;
    size_t first = cells - page / 8;
    for (size_t at = 0; at < page / 8; at++) last[at] = cell(first + at, v);
    struct uffdio_copy copy = {.dst = (uintptr_t)(buffer + first), .src = (uintptr_t)last, .len = page};
    TRY(ioctl(faults, UFFDIO_COPY, &copy));
    pthread_join(writing, 0);
    close(faults);
    control->finished = v;
}

int main(int count, char **words) {
    if (count != 7) return 2;
    kind = words[1], file = words[2], aside = words[3];
    bytes = strtoul(words[5], 0, 10), units = strtoul(words[6], 0, 10), cells = bytes / 8;
    snprintf(other, sizeof other, "%s/new", aside);
    snprintf(twin, sizeof twin, "%s.twin", file);
    int shared = TRY(open(words[4], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    TRY(ftruncate(shared, sizeof *control));
    control = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    buffer = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (control == MAP_FAILED || buffer == MAP_FAILED) failed("mmap");

    /* The first version is a new file, which nothing else has open. */
    seed ^= getpid();
    close(fresh(0));
    TRY(rename(other, file));
    if (is("append")) TRY(truncate(file, 0));
    if (is("link")) unlink(twin), TRY(link(file, twin));
    int flags = O_RDWR | O_CLOEXEC | (is("append") ? O_APPEND : 0) | (is("direct") ? O_DIRECT : 0);
    fd = open(file, flags);
    if (fd < 0 && is("direct")) cannot("O_DIRECT");
    TRY(fd);
    if (!strncmp(kind, "mapped", 6)) {
        map = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) failed("mmap of the file");
    }
    if (is("io-uring")) ring_open();
    if (is("copy-range") || is("clone-into")) other_fd = fresh(0);
    if (is("clone-into") && ioctl(fd, FICLONE, other_fd)) cannot("FICLONE");
    TRY(fsync(fd));
    puts("ok");
    fflush(stdout);

    char line[100];
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "run ", 4)) {
            uint64_t until = now() + strtoul(line + 4, 0, 10);
            for (uint64_t done = 1; now() < until; done++) version(), rest(done);
        } else if (!strcmp(line, "one\n")) {
            version();
        } else if (!strcmp(line, "clean\n")) {
            TRY(fsync(fd));
        } else if (!strcmp(line, "begin\n")) {
            begin();
        } else if (!strcmp(line, "end\n")) {
            end();
        } else {
            return 2;
        }
        puts("ok");
        fflush(stdout);
    }
    return 0;
}
