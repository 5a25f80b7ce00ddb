/* Numbers and names written for people. Each fills and returns `text`. */
#ifndef AV_CLI_FIGURES_H
#define AV_CLI_FIGURES_H

#include <stdint.h>

typedef struct av_figure {
  char text[64];
} av_figure;

/* 1234567 -> "1,234,567" */
const char *av_count_text(av_figure *figure, int64_t n);
/* 1536 -> "1.5 KiB"; below 1024 "17 bytes" */
const char *av_bytes_text(av_figure *figure, double bytes);
/* 3725 -> "1:02:05" (rounded to whole seconds); "?" if negative or not finite */
const char *av_clock_text(av_figure *figure, double seconds);

/* A name or path from outside with everything that could disturb a terminal (control characters) as
 * '?'. The result is owned by the caller; NULL when out of memory. */
char *av_printable(const char *name);

#endif
