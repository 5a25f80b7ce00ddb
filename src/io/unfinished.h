/* Temporaries that a signal must not leave behind: Ctrl-C, a time limit, scancel.
 *
 * The names stand in a fixed table that a signal handler may read; this is the program's only state
 * outside of structs in src/io, because a handler has no other way to know. Not thread-safe: the
 * main thread writes files. Internal to src/io.
 */
#ifndef AV_IO_UNFINISHED_H
#define AV_IO_UNFINISHED_H

/* From now on SIGINT, SIGTERM or SIGHUP remove `path` before they end the process as usual (signals
 * that the process ignores stay ignored). A path too long for the table is not watched. */
void av_unfinished_add(const char *path);
/* `path` is complete or gone. */
void av_unfinished_drop(const char *path);

#endif
