#include "base/launcher.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Name and parent of a process; false if it cannot be looked at. */
static bool look_at(pid_t pid, char name[64], pid_t *parent) {
  char path[64];
  char line[512];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    return false;
  }
  const bool read = fgets(line, sizeof line, file) != NULL;
  fclose(file);
  /* "12 (name) S 3 ...", where the name may hold blanks and brackets */
  const char *open = read ? strchr(line, '(') : NULL;
  const char *close = read ? strrchr(line, ')') : NULL;
  if (open == NULL || close == NULL || close < open) {
    return false;
  }
  snprintf(name, 64, "%.*s", (int)(close - open - 1), open + 1);
  int number = 0;
  if (sscanf(close + 1, " %*c %d", &number) != 1) {
    return false;
  }
  *parent = (pid_t)number;
  return true;
}

pid_t av_launcher(void) {
  static const char *const names[] = {"mpirun",  "mpiexec", "orterun",        "orted",
                                      "prterun", "prted",   "mpirun.openmpi", "mpiexec.openmpi"};
  if (getenv("OMPI_COMM_WORLD_RANK") == NULL) {
    return 0;
  }
  char name[64];
  pid_t pid = getppid();
  pid_t parent = 0;
  while (pid > 1 && look_at(pid, name, &parent)) {
    for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
      if (strncmp(name, names[i], 15) == 0) { /* the kernel keeps 15 letters */
        return pid;
      }
    }
    pid = parent;
  }
  return 0;
}

/* A descriptor for what a person would see of `fd`: fd itself, or the launcher's, opened here (then
 * *opened). -1 if that cannot be reached, as when the launcher writes to a closed pipe. */
static int visible(int fd, bool *opened) {
  *opened = false;
  const pid_t launcher = fd == STDOUT_FILENO || fd == STDERR_FILENO ? av_launcher() : 0;
  if (launcher == 0 || !isatty(fd)) {
    return fd;
  }
  char path[64];
  char target[64];
  snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)launcher, fd);
  const ssize_t length = readlink(path, target, sizeof target - 1);
  if (length < 0) {
    return -1;
  }
  target[length] = '\0';
  if (strncmp(target, "/dev/", 5) != 0) { /* a file or a pipe: do not open it */
    return -1;
  }
  *opened = true;
  return open(path, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
}

bool av_is_terminal(int fd) {
  bool opened = false;
  const int seen = visible(fd, &opened);
  const bool terminal = seen >= 0 && isatty(seen);
  if (opened && seen >= 0) {
    close(seen);
  }
  return terminal;
}

int av_terminal_width(int fd, int otherwise) {
  bool opened = false;
  const int seen = visible(fd, &opened);
  struct winsize size = {0};
  const bool known = seen >= 0 && ioctl(seen, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  if (opened && seen >= 0) {
    close(seen);
  }
  return known ? (int)size.ws_col : otherwise;
}
