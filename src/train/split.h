/* Which cells train, which validate, which are set aside. */
#ifndef AV_TRAIN_SPLIT_H
#define AV_TRAIN_SPLIT_H

#include "config/config.h"
#include "data/dataset.h"

/* Besides AV_SPLIT_TRAIN, _VALIDATION and _TEST: a cell without counts, used by nothing. */
enum { AV_SPLIT_EMPTY = -1 };

typedef struct av_split {
  int8_t *of;                                     /* (n_local) */
  int64_t n_train, n_validation, n_test, n_empty; /* over all ranks */
} av_split;

/* From data.split_key if the data set has it, else by a permutation of the non-empty cells that
 * depends on seed and their number only: the first ceil(train_size n) train, the next
 * floor(validation_size n), or all others, validate. Sizes that do not fit: AV_CONFIG; fewer than 3
 * training cells: AV_BADDATA, unless nothing is to be trained (max_epochs = 0). Collective. */
av_status av_split_create(av_split *split, const av_comm *comm, const av_config *config,
                          const av_dataset *dataset);
void av_split_free(av_split *split);

#endif
