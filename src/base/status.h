/* Status codes, error messages and the macros that carry them.
 *
 * Every fallible function returns an av_status. The function that detects a failure describes it
 * with av_fail(), which keeps the text; callers pass the code up with AV_TRY and add nothing.
 * Nothing is printed until main() does so, once, on one rank. The text is the process's: one thread
 * at a time may call what is below. Threads that can fail (io/read_raw.c) call it under a lock of
 * theirs, and none once one of them has failed; the others report through return values. See also
 * av_agree() in base/comm.h.
 */
#ifndef AV_BASE_STATUS_H
#define AV_BASE_STATUS_H

/* Exit statuses of the program (sysexits.h where it has one). */
typedef enum av_status {
  AV_OK = 0,
  AV_USAGE = 64,      /* wrong command line */
  AV_BADDATA = 65,    /* the input holds something that cannot be used */
  AV_NOINPUT = 66,    /* the input cannot be opened */
  AV_NODEVICE = 69,   /* the backend asked for has no device, or is not in this build */
  AV_BUG = 70,        /* our mistake, or a library's */
  AV_NOMEM = 71,      /* out of memory */
  AV_CANTCREATE = 73, /* output cannot be created, or exists */
  AV_IOERR = 74,      /* reading or writing failed */
  AV_STOPPED = 75,    /* stopped at a checkpoint: run again */
  AV_NUMERIC = 76,    /* training failed numerically */
  AV_CONFIG = 78      /* bad configuration */
} av_status;

#define AV_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* av_fail(code, format, ...) records one line of error text (no newline, no "atlasvi: error:"
 * prefix) and returns `code`. Several calls add several lines; the lines are kept until
 * av_error_clear(). Not collective. (A macro, so that a static analyser sees which code comes
 * back.) */
#define av_fail(code, ...) (av_error_add(__VA_ARGS__), av_status_of(code))
void av_error_add(const char *format, ...) AV_PRINTF(1, 2);
static inline av_status av_status_of(av_status code) { return code; }

/* av_fail for a broken invariant: adds source file and line, returns AV_BUG. */
#define AV_FAIL_BUG(...) av_fail_at(AV_BUG, __FILE__, __LINE__, __VA_ARGS__)
av_status av_fail_at(av_status code, const char *file, int line, const char *format, ...)
    AV_PRINTF(4, 5);

/* The recorded lines, separated by '\n'; "" if none. Borrowed, valid until the next av_fail. */
const char *av_error_text(void);
void av_error_clear(void);

/* Prints every recorded line to stderr as "atlasvi: error: LINE" and clears them. */
void av_error_print(void);

/* Replaces the recorded lines by `text` (used by av_agree to share one rank's text). */
void av_error_set(const char *text);

/* Returns the code from the enclosing function when `call` fails. */
#define AV_TRY(call)                   \
  do {                                 \
    av_status av_try_status_ = (call); \
    if (av_try_status_ != AV_OK) {     \
      return av_try_status_;           \
    }                                  \
  } while (0)

/* Stores the code in `status` and jumps to `label` when `call` fails (for functions that clean up;
 * the label is by convention `done`). */
#define AV_GO(status, call, label) \
  do {                             \
    (status) = (call);             \
    if ((status) != AV_OK) {       \
      goto label;                  \
    }                              \
  } while (0)

/* Fails with AV_NOMEM, naming what was wanted, when `pointer` is NULL. */
#define AV_TRY_ALLOC(pointer)                                                              \
  do {                                                                                     \
    if ((pointer) == NULL) {                                                               \
      return av_fail(AV_NOMEM, "out of memory (%s, %s:%d)", #pointer, __FILE__, __LINE__); \
    }                                                                                      \
  } while (0)

#endif
