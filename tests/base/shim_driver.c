/* Makes one kind of call again and again and says how each went: shim_driver CALL TIMES FILE
 * [BYTES]. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

/* Not optimised away: the block escapes. */
static void *volatile kept;

static int is_null(void *block) {
  kept = block;
  const int null = block == NULL;
  free(block);
  return null ? -1 : 0;
}

static int once(const char *call, int fd, const char *path, size_t bytes) {
  char buffer[4] = "abcd";
  void *block = NULL;
  struct iovec piece = {.iov_base = buffer, .iov_len = sizeof buffer};
  if (strcmp(call, "read") == 0) {
    return read(fd, buffer, 1) < 0 ? -1 : 0;
  }
  if (strcmp(call, "pread") == 0) {
    return pread(fd, buffer, 4, 0) < 0 ? -1 : 0;
  }
  if (strcmp(call, "preadv") == 0) {
    return preadv(fd, &piece, 1, 0) < 0 ? -1 : 0;
  }
  if (strcmp(call, "write") == 0) {
    return write(fd, buffer, 4) < 0 ? -1 : 0;
  }
  if (strcmp(call, "pwrite") == 0) {
    return pwrite(fd, buffer, 4, 0) < 0 ? -1 : 0;
  }
  if (strcmp(call, "pwritev") == 0) {
    return pwritev(fd, &piece, 1, 0) < 0 ? -1 : 0;
  }
  if (strcmp(call, "fsync") == 0) {
    return fsync(fd);
  }
  if (strcmp(call, "ftruncate") == 0) {
    return ftruncate(fd, 4);
  }
  if (strcmp(call, "rename") == 0) {
    return rename(path, path);
  }
  if (strcmp(call, "malloc") == 0) {
    return is_null(malloc(bytes));
  }
  if (strcmp(call, "calloc") == 0) {
    return is_null(calloc(bytes, 1));
  }
  if (strcmp(call, "aligned_alloc") == 0) {
    return is_null(aligned_alloc(64, bytes));
  }
  if (strcmp(call, "posix_memalign") == 0) {
    errno = posix_memalign(&block, 64, bytes);
    return errno != 0 ? -1 : is_null(block);
  }
  if (strcmp(call, "sleep") == 0) {
    const struct timespec second = {.tv_sec = 1};
    return nanosleep(&second, NULL);
  }
  fprintf(stderr, "shim_driver: no call %s\n", call);
  exit(64);
}

int main(int argc, char **argv) {
  if (argc < 4) {
    return 64;
  }
  const int fd = open(argv[3], O_RDWR);
  const size_t bytes = argc > 4 ? strtoul(argv[4], NULL, 10) : 64;
  if (fd < 0) {
    return 66;
  }
  for (int i = 0; i < atoi(argv[2]); ++i) {
    errno = 0;
    const int result = once(argv[1], fd, argv[3], bytes);
    printf("%s%s", i == 0 ? "" : " ", result == 0 ? "ok" : strerrorname_np(errno));
    fflush(stdout);
  }
  printf("\n");
  return close(fd) != 0;
}
