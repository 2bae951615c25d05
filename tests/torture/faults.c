/* Count and log the input/output calls of this process for files below one folder, and inject faults into them.
   Below TORTURE_NO_LOCKS, every lock fails with the errno TORTURE_NO_LOCKS_ERRNO.

   The library is loaded with LD_PRELOAD; Python calls the functions torture_* through ctypes. It intercepts every call
   that changes a file or a name, including those of SQLite, HDF5 and NumPy. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT_ONLY = 0, KILL_HALF_WRITTEN = -1000 }; /* other kinds: errno if positive, minus a signal if negative */

static char root[4096];
static int armed, kind, sticky, log_fd = -1;
static long at, counted;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void torture_arm(const char *folder, long at_call, int fault_kind, int is_permanent, int log) {
  snprintf(root, sizeof root, "%s", folder);
  at = at_call, kind = fault_kind, sticky = is_permanent, log_fd = log, counted = 0, armed = 1;
}

long torture_disarm(void) {
  armed = 0;
  return counted;
}

static void put(const void *data, size_t size) {
  if (REAL(write)(log_fd, data, size) != (ssize_t)size) abort();
}

/* Write a record: operation, inode, offset, length of the path, length of the data, path, data. */
static void record(char op, unsigned long inode, long offset, const char *path, const void *data, long size) {
  if (log_fd < 0) return;
  long head[5] = {op, (long)inode, offset, (long)strlen(path), size};
  put(head, sizeof head);
  put(path, strlen(path));
  put(data, (size_t)size);
}

void torture_mark(long number) {
  if (armed) record('A', 0, number, "", "", 0);
}

static int below_root(const char *path) {
  return armed && strncmp(path, root, strlen(root)) == 0;
}

static int find(int fd, char *path, struct stat *status) {
  char link[64];
  if (!armed) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, 4095);
  if (size <= 0) return 0;
  path[size] = 0;
  return below_root(path) && fstat(fd, status) == 0;
}

/* Return whether this call must fail; kill the process if the fault is a kill. */
static int inject(void) {
  counted++;
  if (counted != at && !(sticky && counted > at)) return 0;
  if (kind == COUNT_ONLY) return 0;
  if (kind == KILL_HALF_WRITTEN || kind == -SIGKILL) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  if (kind < 0) {
    kill(getpid(), -kind);
    return 0;
  }
  errno = kind;
  return 1;
}

static int half(void) { return kind == KILL_HALF_WRITTEN && counted + 1 == at; }

ssize_t write(int fd, const void *data, size_t size) {
  char path[4096];
  struct stat status;
  if (!find(fd, path, &status)) return REAL(write)(fd, data, size);
  if (half()) (void)!REAL(write)(fd, data, size / 2);
  if (inject()) return -1;
  long offset = lseek(fd, 0, SEEK_CUR);
  ssize_t done = REAL(write)(fd, data, size);
  if (done > 0) record('W', status.st_ino, offset, path, data, done);
  return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  char path[4096];
  struct stat status;
  if (!find(fd, path, &status)) return REAL(pwrite64)(fd, data, size, offset);
  if (half()) (void)!REAL(pwrite64)(fd, data, size / 2, offset);
  if (inject()) return -1;
  ssize_t done = REAL(pwrite64)(fd, data, size, offset);
  if (done > 0) record('W', status.st_ino, offset, path, data, done);
  return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

static int sync_one(int fd, int (*real)(int)) {
  char path[4096];
  struct stat status;
  if (!find(fd, path, &status)) return real(fd);
  if (inject()) return -1;
  int done = real(fd);
  if (done == 0) record(S_ISDIR(status.st_mode) ? 'D' : 'S', status.st_ino, 0, path, "", 0);
  return done;
}

int fsync(int fd) { return sync_one(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_one(fd, REAL(fdatasync)); }

int ftruncate64(int fd, off64_t size) {
  char path[4096];
  struct stat status;
  if (!find(fd, path, &status)) return REAL(ftruncate64)(fd, size);
  if (inject()) return -1;
  int done = REAL(ftruncate64)(fd, size);
  if (done == 0) record('T', status.st_ino, size, path, "", 0);
  return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

/* Return the full path of a name in an open folder. */
static const char *join(int folder, const char *path, char *whole) {
  char link[64];
  if (!armed || folder == AT_FDCWD || path[0] == '/') return path;
  snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
  ssize_t size = readlink(link, whole, 2048);
  if (size <= 0) return path;
  snprintf(whole + size, 2048, "/%s", path);
  return whole;
}

/* Intercept a call that changes two names. */
static int move(char op, const char *from, const char *to, int (*real)(void *), void *call) {
  if (!below_root(from) && !below_root(to)) return real(call);
  if (inject()) return -1;
  int done = real(call);
  if (done == 0) record(op, 0, 0, from, to, (long)strlen(to));
  return done;
}

/* Intercept a call that changes one name. */
static int touch(char op, const char *path, int (*real)(void *), void *call) {
  if (!below_root(path)) return real(call);
  if (inject()) return -1;
  int done = real(call);
  if (done == 0 && op) record(op, 0, 0, path, "", 0);
  return done;
}

typedef struct {
  int from_folder, to_folder, flags;
  unsigned mode;
  const char *from, *to;
  const struct timespec *times;
} Call;

#define MOVE(op, arguments, from_folder, to_folder, name, real_call, ...)                    \
  static int real_##name(void *given) {                                                      \
    Call *c = given;                                                                         \
    return real_call;                                                                        \
  }                                                                                          \
  int name arguments {                                                                       \
    char first[4352], second[4352];                                                          \
    Call call = {__VA_ARGS__};                                                               \
    return move(op, join(from_folder, from, first), join(to_folder, to, second), real_##name, &call); \
  }
#define TOUCH(op, arguments, folder, name, real_call, ...)              \
  static int real_##name(void *given) {                                 \
    Call *c = given;                                                    \
    return real_call;                                                   \
  }                                                                     \
  int name arguments {                                                  \
    char whole[4352];                                                   \
    Call call = {__VA_ARGS__};                                          \
    return touch(op, join(folder, from, whole), real_##name, &call);    \
  }

MOVE('R', (const char *from, const char *to), AT_FDCWD, AT_FDCWD, rename, REAL(rename)(c->from, c->to), .from = from,
     .to = to)
MOVE('R', (int a, const char *from, int b, const char *to), a, b, renameat,
     REAL(renameat)(c->from_folder, c->from, c->to_folder, c->to), a, b, .from = from, .to = to)
MOVE(flags & RENAME_EXCHANGE ? 'X' : 'R', (int a, const char *from, int b, const char *to, unsigned flags), a, b,
     renameat2, REAL(renameat2)(c->from_folder, c->from, c->to_folder, c->to, c->mode), a, b, .mode = flags,
     .from = from, .to = to)
MOVE('L', (const char *from, const char *to), AT_FDCWD, AT_FDCWD, link, REAL(link)(c->from, c->to), .from = from,
     .to = to)
MOVE('L', (int a, const char *from, int b, const char *to, int flags), a, b, linkat,
     REAL(linkat)(c->from_folder, c->from, c->to_folder, c->to, c->flags), a, b, flags, .from = from, .to = to)
TOUCH('U', (const char *from), AT_FDCWD, unlink, REAL(unlink)(c->from), .from = from)
TOUCH(flags & AT_REMOVEDIR ? 'Z' : 'U', (int a, const char *from, int flags), a, unlinkat,
      REAL(unlinkat)(c->from_folder, c->from, c->flags), a, .flags = flags, .from = from)
TOUCH('Z', (const char *from), AT_FDCWD, rmdir, REAL(rmdir)(c->from), .from = from)
TOUCH('M', (const char *from, mode_t mode), AT_FDCWD, mkdir, REAL(mkdir)(c->from, c->mode), .mode = mode, .from = from)
TOUCH('M', (int a, const char *from, mode_t mode), a, mkdirat, REAL(mkdirat)(c->from_folder, c->from, c->mode), a,
      .mode = mode, .from = from)
TOUCH(0, (const char *from, mode_t mode), AT_FDCWD, chmod, REAL(chmod)(c->from, c->mode), .mode = mode, .from = from)
TOUCH(0, (int a, const char *from, mode_t mode, int flags), a, fchmodat,
      REAL(fchmodat)(c->from_folder, c->from, c->mode, c->flags), a, .flags = flags, .mode = mode, .from = from)
TOUCH(0, (int a, const char *from, const struct timespec times[2], int flags), a, utimensat,
      REAL(utimensat)(c->from_folder, c->from, c->times, c->flags), a, .flags = flags, .from = from, .times = times)

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size) {
  char path[4096];
  struct stat status;
  if (find(out, path, &status) && inject()) return -1;
  return REAL(sendfile64)(out, in, offset, size);
}

ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sendfile64(out, in, offset, size); }

ssize_t copy_file_range(int in, off64_t *in_offset, int out, off64_t *out_offset, size_t size, unsigned flags) {
  char path[4096];
  struct stat status;
  if (find(out, path, &status) && inject()) return -1;
  return REAL(copy_file_range)(in, in_offset, out, out_offset, size, flags);
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file) {
  char path[4096];
  struct stat status;
  if (!armed || !find(fileno(file), path, &status)) return REAL(fwrite)(data, size, count, file);
  if (half()) {
    REAL(fwrite)(data, 1, size * count / 2, file);
    fflush(file);
  }
  if (inject()) return 0;
  return REAL(fwrite)(data, size, count, file);
}

static int open_real(int folder, const char *path, int flags, mode_t mode) {
  return REAL(openat)(folder, path, flags, mode);
}

static int create(int folder, const char *path, int flags, mode_t mode) {
  struct stat status;
  char whole[4352];
  const char *name = join(folder, path, whole);
  if (!(flags & (O_CREAT | O_TRUNC)) || !below_root(name)) return open_real(folder, path, flags, mode);
  int is_new = stat(name, &status) != 0;
  if (!is_new && !(flags & O_TRUNC)) return open_real(folder, path, flags, mode);
  if (inject()) return -1;
  int fd = open_real(folder, path, flags, mode);
  if (fd >= 0 && fstat(fd, &status) == 0) record(is_new ? 'C' : 'T', status.st_ino, 0, name, "", 0);
  return fd;
}

#define OPEN(name, arguments, folder)                         \
  int name arguments {                                        \
    va_list rest;                                             \
    va_start(rest, flags);                                    \
    int has_mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE; \
    mode_t mode = has_mode ? va_arg(rest, mode_t) : 0;        \
    va_end(rest);                                             \
    return create(folder, path, flags, mode);                 \
  }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN(openat, (int folder, const char *path, int flags, ...), folder)
OPEN(openat64, (int folder, const char *path, int flags, ...), folder)

static FILE *open_stream(const char *path, const char *mode, FILE *(*real)(const char *, const char *)) {
  if (mode[0] != 'r' && below_root(path) && inject()) return NULL;
  return real(path, mode);
}

FILE *fopen(const char *path, const char *mode) { return open_stream(path, mode, REAL(fopen)); }
FILE *fopen64(const char *path, const char *mode) { return open_stream(path, mode, REAL(fopen64)); }

static int has_no_locks(int fd) {
  char link[64], path[4096];
  const char *folder = getenv("TORTURE_NO_LOCKS");
  if (!folder) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t size = readlink(link, path, 4095);
  if (size <= 0) return 0;
  path[size] = 0;
  if (strncmp(path, folder, strlen(folder)) != 0) return 0;
  errno = atoi(getenv("TORTURE_NO_LOCKS_ERRNO"));
  return 1;
}

int flock(int fd, int operation) { return has_no_locks(fd) ? -1 : REAL(flock)(fd, operation); }

#define FCNTL(name)                                                                  \
  int name(int fd, int command, ...) {                                               \
    va_list rest;                                                                    \
    va_start(rest, command);                                                         \
    void *argument = va_arg(rest, void *);                                           \
    va_end(rest);                                                                    \
    int is_lock = command == F_SETLK || command == F_SETLKW || command == F_GETLK;   \
    return is_lock && has_no_locks(fd) ? -1 : REAL(name)(fd, command, argument);     \
  }
FCNTL(fcntl)
FCNTL(fcntl64)
