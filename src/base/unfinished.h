/* Temporaries that the end of a run must not leave behind, be it by a signal (Ctrl-C, a time limit,
 * scancel), by av_comm_abort, or because another rank has ended it.
 *
 * The names stand in a fixed table outside of any struct, because a signal handler has no other way
 * to know. Not thread-safe: the main thread writes files.
 */
#ifndef AV_BASE_UNFINISHED_H
#define AV_BASE_UNFINISHED_H

/* From now on SIGINT, SIGTERM or SIGHUP remove `path` before they end the process as usual (signals
 * that the process ignores stay ignored). A path too long for the table is not watched. */
void av_unfinished_add(const char *path);
/* `path` is complete or gone. */
void av_unfinished_drop(const char *path);
/* Removes them all, before the process ends: what was added stays in the table. Safe in a signal
 * handler. */
void av_unfinished_remove(void);

#endif
