/* Counts, logs, fails or kills at the input/output calls of this process below one folder.

   Loaded with LD_PRELOAD; the functions named torture_* are called through ctypes. It sees every call that
   changes a file or a name, also those that SQLite makes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT_ONLY = 0, KILL = -1, KILL_HALF_WRITTEN = -2 }; /* any other kind is an errno */

static char root[4096];
static int armed, kind, sticky, log_fd = -1;
static long at, counted;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void torture_arm(const char *folder, long at_call, int fault_kind, int from_then_on, int log) {
  snprintf(root, sizeof root, "%s", folder);
  at = at_call, kind = fault_kind, sticky = from_then_on, log_fd = log, counted = 0, armed = 1;
}

long torture_disarm(void) {
  armed = 0;
  return counted;
}

static void put(const void *data, size_t size) {
  if (REAL(write)(log_fd, data, size) != (ssize_t)size) abort();
}

/* A record: operation, inode, offset, lengths of the path and of the data, path, data. */
static void note(char op, unsigned long inode, long offset, const char *path, const void *data, long size) {
  if (log_fd < 0) return;
  long head[5] = {op, (long)inode, offset, (long)strlen(path), size};
  put(head, sizeof head);
  put(path, strlen(path));
  put(data, (size_t)size);
}

void torture_mark(long number) {
  if (armed) note('A', 0, number, "", "", 0);
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

/* Whether this call is to fail; does not return where it is to be the last. */
static int strike(void) {
  counted++;
  if (counted != at && !(sticky && counted > at)) return 0;
  if (kind == COUNT_ONLY) return 0;
  if (kind < 0) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
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
  if (strike()) return -1;
  long offset = lseek(fd, 0, SEEK_CUR);
  ssize_t done = REAL(write)(fd, data, size);
  if (done > 0) note('W', status.st_ino, offset, path, data, done);
  return done;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  char path[4096];
  struct stat status;
  if (!find(fd, path, &status)) return REAL(pwrite64)(fd, data, size, offset);
  if (half()) (void)!REAL(pwrite64)(fd, data, size / 2, offset);
  if (strike()) return -1;
  ssize_t done = REAL(pwrite64)(fd, data, size, offset);
  if (done > 0) note('W', status.st_ino, offset, path, data, done);
  return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return pwrite64(fd, data, size, offset); }

static int sync_one(int fd, int (*real)(int)) {
  char path[4096];
  struct stat status;
  if (!find(fd, path, &status)) return real(fd);
  if (strike()) return -1;
  int done = real(fd);
  if (done == 0) note(S_ISDIR(status.st_mode) ? 'D' : 'S', status.st_ino, 0, path, "", 0);
  return done;
}

int fsync(int fd) { return sync_one(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_one(fd, REAL(fdatasync)); }

int ftruncate64(int fd, off64_t size) {
  char path[4096];
  struct stat status;
  if (!find(fd, path, &status)) return REAL(ftruncate64)(fd, size);
  if (strike()) return -1;
  int done = REAL(ftruncate64)(fd, size);
  if (done == 0) note('T', status.st_ino, size, path, "", 0);
  return done;
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int rename(const char *from, const char *to) {
  if (!below_root(from)) return REAL(rename)(from, to);
  if (strike()) return -1;
  int done = REAL(rename)(from, to);
  if (done == 0) note('R', 0, 0, from, to, (long)strlen(to));
  return done;
}

int unlink(const char *path) {
  if (!below_root(path)) return REAL(unlink)(path);
  if (strike()) return -1;
  int done = REAL(unlink)(path);
  if (done == 0) note('U', 0, 0, path, "", 0);
  return done;
}

int mkdir(const char *path, mode_t mode) {
  if (!below_root(path)) return REAL(mkdir)(path, mode);
  if (strike()) return -1;
  int done = REAL(mkdir)(path, mode);
  if (done == 0) note('M', 0, 0, path, "", 0);
  return done;
}

static int create(const char *path, int flags, mode_t mode, int (*real)(const char *, int, ...)) {
  struct stat status;
  if (!(flags & O_CREAT) || !below_root(path) || stat(path, &status) == 0) {
    int fd = real(path, flags, mode);
    if (fd >= 0 && (flags & O_TRUNC) && below_root(path) && fstat(fd, &status) == 0)
      note('T', status.st_ino, 0, path, "", 0);
    return fd;
  }
  if (strike()) return -1;
  int fd = real(path, flags, mode);
  if (fd >= 0 && fstat(fd, &status) == 0) note('C', status.st_ino, 0, path, "", 0);
  return fd;
}

#define OPEN(name)                                        \
  int name(const char *path, int flags, ...) {            \
    va_list rest;                                         \
    va_start(rest, flags);                                \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                         \
    return create(path, flags, mode, REAL(name));         \
  }
OPEN(open)
OPEN(open64)
