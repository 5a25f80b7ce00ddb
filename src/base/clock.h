/* Time for measuring: never set back, unlike the time of day. */
#ifndef AV_BASE_CLOCK_H
#define AV_BASE_CLOCK_H

/* Seconds since some moment in the past. Thread-safe. */
double av_clock(void);

#endif
