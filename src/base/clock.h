/* Time for measuring, never set back, unlike the time of day; and for waiting. */
#ifndef AV_BASE_CLOCK_H
#define AV_BASE_CLOCK_H

/* Seconds since some moment in the past. Thread-safe. */
double av_clock(void);
/* Leaves the processor to others for less than a second: for who asks again and again.
 * Thread-safe. */
void av_rest(double seconds);

#endif
