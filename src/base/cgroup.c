/* The share of CPU time that the control groups of this process leave it. */
#include "base/threads.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Cores for `quota` microseconds in every `period`, rounded up; 0 for no limit. */
static int64_t cores_of(long long quota, long long period) {
  return quota > 0 && period > 0 ? (int64_t)((quota + period - 1) / period) : 0;
}

static int64_t smaller_limit(int64_t a, int64_t b) {
  if (a == 0 || b == 0) {
    return a + b;
  }
  return a < b ? a : b;
}

/* First one or two numbers in a file; returns how many there were ("max 100000" has none). */
static int numbers_in(const char *folder, const char *name, long long *first, long long *second) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) {
    return 0;
  }
  FILE *file = fopen(path, "r");
  if (file == NULL) {
    return 0;
  }
  const int n = fscanf(file, "%lld %lld", first, second);
  fclose(file);
  return n > 0 ? n : 0;
}

static int64_t limit_in(const char *folder) {
  long long quota = 0;
  long long period = 0;
  long long unused = 0;
  int64_t limit = 0;
  if (numbers_in(folder, "cpu.max", &quota, &period) == 2) {
    limit = cores_of(quota, period);
  }
  if (numbers_in(folder, "cpu.cfs_quota_us", &quota, &unused) >= 1 &&
      numbers_in(folder, "cpu.cfs_period_us", &period, &unused) >= 1) {
    limit = smaller_limit(limit, cores_of(quota, period));
  }
  return limit;
}

/* The limits of root/group, of the groups above it, and of root. A group that is not below root
 * (its name is the host's, seen from a container) leaves root's own. */
static int64_t limit_upwards(const char *root, const char *group) {
  char folder[PATH_MAX];
  const size_t stop = strlen(root);
  if (snprintf(folder, sizeof folder, "%s%s", root, group) >= (int)sizeof folder) {
    return 0;
  }
  int64_t limit = limit_in(folder);
  while (strlen(folder) > stop) {
    *strrchr(folder, '/') = '\0';
    limit = smaller_limit(limit, limit_in(folder));
  }
  return limit;
}

/* Is "cpu" among the comma-separated names? */
static bool names_cpu(const char *names) {
  char copy[256];
  snprintf(copy, sizeof copy, "%s", names);
  char *rest = copy;
  char *name = NULL;
  while ((name = strsep(&rest, ",")) != NULL) {
    if (strcmp(name, "cpu") == 0) {
      return true;
    }
  }
  return false;
}

int64_t av_cgroup_cores(const char *mount, const char *membership) {
  char *text = strdup(membership);
  int64_t limit = 0;
  char *rest = text;
  char *line = NULL;
  while (text != NULL && (line = strsep(&rest, "\n")) != NULL) {
    /* "0::/group" (version 2) or "2:cpu,cpuacct:/group" (version 1) */
    char *names = strchr(line, ':');
    char *group = names == NULL ? NULL : strchr(names + 1, ':');
    if (group == NULL || group[1] != '/') {
      continue;
    }
    *group++ = '\0';
    ++names;
    static const char *const unified[] = {"", "/unified"};
    static const char *const classic[] = {"/cpu,cpuacct", "/cpu", "/cpuacct,cpu"};
    const bool version2 = names[0] == '\0';
    const char *const *below = version2 ? unified : classic;
    const size_t n = version2 ? 2 : 3;
    for (size_t i = 0; i < n && (version2 || names_cpu(names)); ++i) {
      char root[PATH_MAX];
      snprintf(root, sizeof root, "%s%s", mount, below[i]);
      limit = smaller_limit(limit, limit_upwards(root, group));
    }
  }
  free(text);
  return limit;
}
