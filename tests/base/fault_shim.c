/* Makes system calls fail on demand: a library for LD_PRELOAD.
 *
 *   ATLASVI_SHIM="rank=1,call=pread,after=3,errno=EIO" LD_PRELOAD=.../libav_fault_shim.so program
 *
 * fails the third pread of rank 1. A line on stderr ("shim: ...") says when it strikes, so that a
 * test can tell a fault survived from a fault that never came. Options, separated by commas:
 *
 *   - call=A|B...: read, pread, write, pwrite (each with its vector and 64-bit forms), fsync (and
 *     fdatasync), rename (and renameat), ftruncate, malloc (and calloc, realloc, aligned_alloc,
 *     posix_memalign, memalign), or timer: strikes after `seconds`, whatever is called
 *   - after=N: strike at the N-th matching call; default 1
 *   - times=K|all: and at the K - 1 matching calls after it; default 1
 *   - errno=NAME: what the call fails with (ENOMEM for malloc); default EIO
 *   - action=fail|kill|stop|sleep: fail (default); kill: SIGKILL to itself; stop: SIGSTOP (a hung
 *     rank); sleep: the call takes `seconds` longer and then succeeds
 *   - seconds=S: for timer and sleep; default 1
 *   - path=TEXT: only files whose path contains TEXT (not for malloc)
 *   - size=BYTES: malloc: only blocks of at least this size
 *   - rank=R: only the rank of this number (OMPI_COMM_WORLD_RANK; a process without one is rank 0)
 *   - program=NAME: only the program of this name: launchers and shells inherit LD_PRELOAD
 *
 * Under mpirun: mpirun -x LD_PRELOAD=.../libav_fault_shim.so -x ATLASVI_SHIM=rank=1,... -n 2
 * program Writes made by stdio stay inside the C library and are not seen. With an
 * address-sanitized program name its libasan first (LD_PRELOAD=libasan.so:libav_fault_shim.so);
 * malloc is then not seen.
 */
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum action { FAIL, KILL, STOP, SLEEP };

static struct {
  bool armed;
  char calls[128]; /* "|read|pread|" */
  long after;
  long times;
  int error;
  enum action action;
  double seconds;
  char path[256];
  size_t size;
} plan = {.after = 1, .times = 1, .error = EIO, .seconds = 1};

static long n_matching;

/* Straight to the kernel: our own write() is not to be counted. */
static void say(const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  const int length = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  if (length > 0) {
    syscall(SYS_write, STDERR_FILENO, text,
            (size_t)length < sizeof text ? (size_t)length : sizeof text);
  }
}

static void wait_seconds(double seconds) {
  struct timespec left = {.tv_sec = (time_t)seconds};
  left.tv_nsec = (long)(1e9 * (seconds - (double)left.tv_sec));
  while (nanosleep(&left, &left) != 0 && errno == EINTR) {
  }
}

/* Does what was planned for this moment; true if the call is to fail. */
static bool strike(const char *what) {
  static const char *const names[] = {"fails", "kills", "stops", "sleeps"};
  const char *rank = getenv("OMPI_COMM_WORLD_RANK");
  say("shim: rank %s: %s %s\n", rank == NULL ? "0" : rank, what, names[plan.action]);
  switch (plan.action) {
    case KILL:
      kill(getpid(), SIGKILL);
      break;
    case STOP:
      kill(getpid(), SIGSTOP);
      break;
    case SLEEP:
      wait_seconds(plan.seconds);
      break;
    case FAIL:
      return true;
  }
  return false;
}

static bool wanted(const char *call) {
  char word[32];
  snprintf(word, sizeof word, "|%s|", call);
  return plan.armed && strstr(plan.calls, word) != NULL;
}

/* Counts a matching call; true if it is to fail, errno set. */
static bool due(const char *call) {
  const long n = __atomic_add_fetch(&n_matching, 1, __ATOMIC_RELAXED);
  if (n < plan.after || (plan.times > 0 && n >= plan.after + plan.times)) {
    return false;
  }
  if (!strike(call)) {
    return false;
  }
  errno = plan.error;
  return true;
}

static bool fd_due(const char *call, int fd) {
  if (!wanted(call)) {
    return false;
  }
  if (plan.path[0] != '\0') {
    char link[64];
    char target[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, target, sizeof target - 1);
    target[length < 0 ? 0 : length] = '\0';
    if (strstr(target, plan.path) == NULL) {
      return false;
    }
  }
  return due(call);
}

static bool path_due(const char *call, const char *from, const char *to) {
  return wanted(call) &&
         (plan.path[0] == '\0' || strstr(from, plan.path) != NULL ||
          strstr(to, plan.path) != NULL) &&
         due(call);
}

static bool size_due(size_t size) {
  if (!wanted("malloc") || size < plan.size || !due("malloc")) {
    return false;
  }
  errno = ENOMEM;
  return true;
}

/* The library's own function of this name. */
#define REAL(name)                             \
  static __typeof__(&name) real;               \
  if (real == NULL) {                          \
    *(void **)&real = dlsym(RTLD_NEXT, #name); \
  }

#define FD_CALL(result, name, group, parameters, arguments) \
  result name parameters;                                   \
  result name parameters {                                  \
    REAL(name)                                              \
    return fd_due(group, fd) ? -1 : real arguments;         \
  }

FD_CALL(ssize_t, read, "read", (int fd, void *b, size_t n), (fd, b, n))
FD_CALL(ssize_t, readv, "read", (int fd, const struct iovec *v, int n), (fd, v, n))
FD_CALL(ssize_t, pread, "pread", (int fd, void *b, size_t n, off_t o), (fd, b, n, o))
FD_CALL(ssize_t, pread64, "pread", (int fd, void *b, size_t n, off64_t o), (fd, b, n, o))
FD_CALL(ssize_t, preadv, "pread", (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))
FD_CALL(ssize_t, preadv64, "pread", (int fd, const struct iovec *v, int n, off64_t o),
        (fd, v, n, o))
FD_CALL(ssize_t, write, "write", (int fd, const void *b, size_t n), (fd, b, n))
FD_CALL(ssize_t, writev, "write", (int fd, const struct iovec *v, int n), (fd, v, n))
FD_CALL(ssize_t, pwrite, "pwrite", (int fd, const void *b, size_t n, off_t o), (fd, b, n, o))
FD_CALL(ssize_t, pwrite64, "pwrite", (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o))
FD_CALL(ssize_t, pwritev, "pwrite", (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o))
FD_CALL(ssize_t, pwritev64, "pwrite", (int fd, const struct iovec *v, int n, off64_t o),
        (fd, v, n, o))
FD_CALL(int, fsync, "fsync", (int fd), (fd))
FD_CALL(int, fdatasync, "fsync", (int fd), (fd))
FD_CALL(int, ftruncate, "ftruncate", (int fd, off_t n), (fd, n))
FD_CALL(int, ftruncate64, "ftruncate", (int fd, off64_t n), (fd, n))

int rename(const char *from, const char *to) {
  REAL(rename)
  return path_due("rename", from, to) ? -1 : real(from, to);
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) {
  REAL(renameat)
  return path_due("rename", from, to) ? -1 : real(from_fd, from, to_fd, to);
}
int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned int flags) {
  REAL(renameat2)
  return path_due("rename", from, to) ? -1 : real(from_fd, from, to_fd, to, flags);
}

/* Finding the real malloc may itself allocate: from here, never given back. */
static char arena[8192] __attribute__((aligned(64)));
static size_t arena_used;
static __thread bool resolving;

static void *from_arena(size_t size) {
  const size_t at = __atomic_fetch_add(&arena_used, (size + 63) / 64 * 64, __ATOMIC_RELAXED);
  return at + size <= sizeof arena ? arena + at : NULL;
}

#define REAL_ALLOC(name, size)                 \
  static __typeof__(&name) real;               \
  if (real == NULL) {                          \
    if (resolving) {                           \
      return from_arena(size);                 \
    }                                          \
    resolving = true;                          \
    *(void **)&real = dlsym(RTLD_NEXT, #name); \
    resolving = false;                         \
  }

void *malloc(size_t size) {
  REAL_ALLOC(malloc, size)
  return size_due(size) ? NULL : real(size);
}
void *calloc(size_t n, size_t size) {
  REAL_ALLOC(calloc, n * size)
  return size_due(n * size) ? NULL : real(n, size);
}
void *realloc(void *old, size_t size) {
  REAL_ALLOC(realloc, size)
  return size_due(size) ? NULL : real(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  REAL_ALLOC(aligned_alloc, size)
  return size_due(size) ? NULL : real(alignment, size);
}
void *memalign(size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size) {
  REAL_ALLOC(memalign, size)
  return size_due(size) ? NULL : real(alignment, size);
}
int posix_memalign(void **block, size_t alignment, size_t size) {
  REAL(posix_memalign)
  return size_due(size) ? ENOMEM : real(block, alignment, size);
}
void free(void *block) {
  static __typeof__(&free) real;
  if ((char *)block >= arena && (char *)block < arena + sizeof arena) {
    return;
  }
  if (real == NULL) {
    *(void **)&real = dlsym(RTLD_NEXT, "free");
  }
  real(block);
}

static void *timer(void *unused) {
  wait_seconds(plan.seconds);
  strike("timer");
  return unused;
}

static _Noreturn void refuse(const char *option) {
  say("shim: cannot understand \"%s\" in ATLASVI_SHIM\n", option);
  _exit(127);
}

static int errno_of(const char *name) {
  static const struct {
    const char *name;
    int value;
  } known[] = {{"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EACCES", EACCES},
               {"EFBIG", EFBIG},   {"EINTR", EINTR},   {"ENOMEM", ENOMEM}, {"EROFS", EROFS},
               {"ESTALE", ESTALE}, {"EXDEV", EXDEV},   {"EPERM", EPERM}};
  for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i) {
    if (strcmp(name, known[i].name) == 0) {
      return known[i].value;
    }
  }
  refuse(name);
}

static double number_of(const char *text) {
  char *end = NULL;
  const double value = strtod(text, &end);
  if (end == text || *end != '\0' || value < 0) {
    refuse(text);
  }
  return value;
}

static enum action action_of(const char *name) {
  static const char *const names[] = {"fail", "kill", "stop", "sleep"};
  for (int i = 0; i < 4; ++i) {
    if (strcmp(name, names[i]) == 0) {
      return (enum action)i;
    }
  }
  refuse(name);
}

static void check_calls(void) {
  static const char known[] = "|read|pread|write|pwrite|fsync|rename|ftruncate|malloc|timer|";
  char copy[sizeof plan.calls];
  snprintf(copy, sizeof copy, "%s", plan.calls);
  char *save = NULL;
  const char *name = strtok_r(copy, "|", &save);
  if (name == NULL) {
    refuse("call=");
  }
  for (; name != NULL; name = strtok_r(NULL, "|", &save)) {
    char word[sizeof plan.calls + 2];
    snprintf(word, sizeof word, "|%s|", name);
    if (strstr(known, word) == NULL) {
      refuse(name);
    }
  }
}

/* Takes one option; false if this process is not meant. */
static bool take(const char *key, const char *value) {
  if (strcmp(key, "rank") == 0) {
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    return strcmp(rank == NULL ? "0" : rank, value) == 0;
  }
  if (strcmp(key, "program") == 0) {
    return strcmp(program_invocation_short_name, value) == 0;
  }
  if (strcmp(key, "call") == 0) {
    snprintf(plan.calls, sizeof plan.calls, "|%s|", value);
  } else if (strcmp(key, "after") == 0) {
    plan.after = (long)number_of(value);
  } else if (strcmp(key, "times") == 0) {
    plan.times = strcmp(value, "all") == 0 ? 0 : (long)number_of(value);
  } else if (strcmp(key, "errno") == 0) {
    plan.error = errno_of(value);
  } else if (strcmp(key, "action") == 0) {
    plan.action = action_of(value);
  } else if (strcmp(key, "seconds") == 0) {
    plan.seconds = number_of(value);
  } else if (strcmp(key, "path") == 0) {
    snprintf(plan.path, sizeof plan.path, "%s", value);
  } else if (strcmp(key, "size") == 0) {
    plan.size = (size_t)number_of(value);
  } else {
    refuse(key);
  }
  return true;
}

__attribute__((constructor)) static void start(void) {
  const char *text = getenv("ATLASVI_SHIM");
  char copy[1024];
  char *save = NULL;
  bool meant = true;
  if (text == NULL) {
    return;
  }
  snprintf(copy, sizeof copy, "%s", text);
  for (char *option = strtok_r(copy, ",", &save); option != NULL;
       option = strtok_r(NULL, ",", &save)) {
    char *value = strchr(option, '=');
    if (value == NULL) {
      refuse(option);
    }
    *value++ = '\0';
    meant = take(option, value) && meant;
  }
  check_calls();
  if (!meant) {
    return;
  }
  plan.armed = true;
  pthread_t thread;
  if (wanted("timer") && pthread_create(&thread, NULL, timer, NULL) != 0) {
    refuse("call=timer");
  }
}
