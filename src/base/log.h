/* What a person and a program watching the run see: lines on stderr/stdout from rank 0 and the same
 * facts as JSON lines. See cli/report.h for banner and closing table, cli/progress.h for epochs.
 *
 * The log is one per process (state in log.c): any part of the program may warn. Call from the main
 * thread. Before av_log_open every process prints its own lines.
 */
#ifndef AV_BASE_LOG_H
#define AV_BASE_LOG_H

#include "base/comm.h"

/* Opens the JSON-lines file (NULL: none). Only rank 0 writes; the others' calls do nothing. Records
 * are appended, so that a run started again keeps its history; a file that is not such a log (the
 * input given by mistake) is refused. May be called again: the earlier file is closed. Collective;
 * fails with AV_CANTCREATE. */
av_status av_log_open(const av_comm *comm, const char *path);
void av_log_close(void);

/* "atlasvi: warning: ..." on stderr and a {"event":"warning"} line; rank 0 only. */
void av_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* An ordinary line on stdout ("atlasvi: ..."); rank 0 only. */
void av_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One JSON-lines record: av_log_event("epoch", "epoch", "i", (int64_t)3, "elbo_train", "d", 1.5,
 * NULL): triples of name, kind ("i" int64_t, "d" double, "s" string, "b" int) and value, ended by
 * NULL. Time and event are added. Non-finite doubles become null. Every line is flushed. A log that
 * cannot be written any more (disk full) is closed with one warning: the run goes on. */
void av_log_event(const char *event, ...) __attribute__((sentinel));

/* `before` (NULL: none) is called before av_warn and av_say print: a live bar clears itself. */
void av_log_before_line(void (*before)(void *context), void *context);

#endif
