/* What a fitted model found, for a person: final losses, and the genes of each factor. */
#ifndef AV_RUN_SUMMARY_H
#define AV_RUN_SUMMARY_H

#include "run/fit.h"

#include <stdio.h>

/* Prints the losses at the end, the restarts if there were several, and the factors of a linear
 * decoder; rank 0 only. Log events "result", "chosen". Not collective. */
void av_summary_print(const av_comm *comm, const av_dataset *dataset, const av_fitting *fitting,
                      FILE *out);

#endif
