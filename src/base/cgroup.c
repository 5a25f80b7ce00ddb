/* The share of CPU time, and of memory, that the control groups of this process leave it. */
#include "base/cgroup.h"

#include "base/threads.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int av_cgroup_numbers(const char *folder, const char *name, long long *first, long long *second) {
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

void av_cgroup_membership(char *text, int64_t size) {
  FILE *file = fopen("/proc/self/cgroup", "r");
  size_t length = 0;
  if (file != NULL) {
    length = fread(text, 1, (size_t)size - 1, file);
    fclose(file);
  }
  text[length] = '\0';
}

/* ---- the groups ---- */

/* root/group, the groups above it, and root. */
static void visit_upwards(const char *root, const char *group,
                          void (*visit)(const char *folder, void *context), void *context) {
  char folder[PATH_MAX];
  const size_t stop = strlen(root);
  if (snprintf(folder, sizeof folder, "%s%s", root, group) >= (int)sizeof folder) {
    return;
  }
  visit(folder, context);
  while (strlen(folder) > stop) {
    *strrchr(folder, '/') = '\0';
    visit(folder, context);
  }
}

/* Is `wanted` among the comma-separated names? */
static bool is_among(const char *wanted, const char *names) {
  char copy[256];
  snprintf(copy, sizeof copy, "%s", names);
  char *rest = copy;
  char *name = NULL;
  while ((name = strsep(&rest, ",")) != NULL) {
    if (strcmp(name, wanted) == 0) {
      return true;
    }
  }
  return false;
}

void av_cgroup_visit(const char *mount, const char *membership, av_cgroup_controller controller,
                     void (*visit)(const char *folder, void *context), void *context) {
  static const char *const unified[] = {"", "/unified", NULL};
  static const char *const classic[][4] = {{"/cpu,cpuacct", "/cpu", "/cpuacct,cpu", NULL},
                                           {"/memory", NULL}};
  static const char *const controllers[] = {"cpu", "memory"};
  char *text = strdup(membership);
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
    const bool version2 = names[0] == '\0';
    if (!version2 && !is_among(controllers[controller], names)) {
      continue;
    }
    for (const char *const *below = version2 ? unified : classic[controller]; *below != NULL;
         ++below) {
      char root[PATH_MAX];
      snprintf(root, sizeof root, "%s%s", mount, *below);
      visit_upwards(root, group, visit, context);
    }
  }
  free(text);
}

/* ---- CPU time ---- */

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

static void limit_cores(const char *folder, void *context) {
  int64_t *limit = context;
  long long quota = 0;
  long long period = 0;
  long long unused = 0;
  if (av_cgroup_numbers(folder, "cpu.max", &quota, &period) == 2) {
    *limit = smaller_limit(*limit, cores_of(quota, period));
  }
  if (av_cgroup_numbers(folder, "cpu.cfs_quota_us", &quota, &unused) >= 1 &&
      av_cgroup_numbers(folder, "cpu.cfs_period_us", &period, &unused) >= 1) {
    *limit = smaller_limit(*limit, cores_of(quota, period));
  }
}

int64_t av_cgroup_cores(const char *mount, const char *membership) {
  int64_t limit = 0;
  av_cgroup_visit(mount, membership, AV_CGROUP_CPU, limit_cores, &limit);
  return limit;
}

/* ---- memory ---- */

/* The number after `key` in a file of lines "key number"; 0 if there is none. */
static long long number_of(const char *folder, const char *name, const char *key) {
  char path[PATH_MAX];
  FILE *file = NULL;
  if (snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path) {
    file = fopen(path, "r");
  }
  char line[256];
  long long value = 0;
  const size_t length = strlen(key);
  while (file != NULL && fgets(line, sizeof line, file) != NULL) {
    if (strncmp(line, key, length) == 0 && line[length] == ' ') {
      value = strtoll(line + length, NULL, 10);
      break;
    }
  }
  if (file != NULL) {
    fclose(file);
  }
  return value;
}

static void limit_memory(const char *folder, void *context) {
  static const struct {
    const char *limit, *used, *cache;
  } files[] = {{"memory.max", "memory.current", "inactive_file"},
               {"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}};
  int64_t *least = context;
  for (int version = 0; version < 2; ++version) {
    long long limit = 0;
    long long used = 0;
    long long unused = 0;
    if (av_cgroup_numbers(folder, files[version].limit, &limit, &unused) < 1 ||
        av_cgroup_numbers(folder, files[version].used, &used, &unused) < 1) {
      continue;
    }
    const long long cache = number_of(folder, "memory.stat", files[version].cache);
    used = cache < used ? used - cache : 0;
    const int64_t left = limit > used ? (int64_t)(limit - used) : 0;
    *least = *least < 0 || left < *least ? left : *least;
  }
}

int64_t av_cgroup_memory(const char *mount, const char *membership) {
  int64_t least = -1;
  av_cgroup_visit(mount, membership, AV_CGROUP_MEMORY, limit_memory, &least);
  return least;
}
