#ifndef TESTS_BASE_CGROUP_TREE_H
#define TESTS_BASE_CGROUP_TREE_H

/* A small /sys/fs/cgroup of a test's own: folders with the files that a control group has. Fixtures
 * of cmocka; one tree at a time. */

/* Where the tree of this test begins; valid between the two fixtures. */
extern char tree_root[64];

/* setup and teardown of a test: a new, empty tree; and away with it. 0, or the test fails. */
int tree_begin(void **unused);
int tree_end(void **unused);

/* Writes root/folder/name with this text; folders are made as needed, "" is the root itself. */
void tree_put(const char *folder, const char *name, const char *text);

#endif
