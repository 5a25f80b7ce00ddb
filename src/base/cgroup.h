/* The control groups that this process is in, version 2 and 1. Internal to src/base and its tests.
 *
 * `membership` is the text of /proc/self/cgroup, `mount` /sys/fs/cgroup. Limits hold from the group
 * upwards. A group that is not below the mount (its name is the host's, seen from a container)
 * leaves the mount's own.
 */
#ifndef AV_BASE_CGROUP_H
#define AV_BASE_CGROUP_H

#include <stdint.h>

typedef enum av_cgroup_controller { AV_CGROUP_CPU, AV_CGROUP_MEMORY } av_cgroup_controller;

/* Calls visit(folder, context) for the group's folder under every mount of the controller, and for
 * those above it. */
void av_cgroup_visit(const char *mount, const char *membership, av_cgroup_controller controller,
                     void (*visit)(const char *folder, void *context), void *context);

/* First one or two numbers in a file of a folder; returns how many there were ("max 100000" has
 * none). */
int av_cgroup_numbers(const char *folder, const char *name, long long *first, long long *second);

/* The text of /proc/self/cgroup, cut to what fits; "" if there is none. */
void av_cgroup_membership(char *text, int64_t size);

/* Bytes that the groups' limits leave: the smallest of limit - used, where page cache that the
 * kernel can drop does not count as used; -1 if there is no limit. */
int64_t av_cgroup_memory(const char *mount, const char *membership);

#endif
