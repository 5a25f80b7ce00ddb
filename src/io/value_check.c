#include "io/value_check.h"

#include "base/log.h"
#include "base/memory.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void av_value_check_begin(av_value_check *check, const av_stored *stored, const av_dataset *dataset,
                          bool allow_fractions) {
  *check = (av_value_check){.allow_fractions = allow_fractions,
                            .largest = allow_fractions ? (double)FLT_MAX : stored->largest,
                            .unrounded = allow_fractions ? INFINITY : stored->unrounded,
                            .gene_column = dataset->gene_column,
                            .first = {.row = -1}};
}

static bool comes_before(const av_bad_value *a, const av_bad_value *b) {
  return b->row < 0 || a->row < b->row || (a->row == b->row && a->column < b->column);
}

/* NaN fails every comparison. */
static bool is_whole(double value) { return value == floor(value) && fabs(value) <= DBL_MAX; }

static void judge(av_value_check *check, int64_t row, int32_t gene, double value) {
  const bool fraction = value >= 0 && value <= DBL_MAX && !is_whole(value);
  check->n_rounded += value > check->unrounded;
  if (value >= 0 && value <= check->largest && (check->allow_fractions || !fraction)) {
    return;
  }
  const av_bad_value bad = {row, check->gene_column[gene], gene, value};
  check->n_bad += 1;
  check->n_fractions += fraction;
  if (comes_before(&bad, &check->first)) {
    check->first = bad;
  }
}

void av_check_values(av_value_check *check, int64_t row, int64_t n, const int32_t *gene,
                     const double *value) {
  const double largest = check->largest < check->unrounded ? check->largest : check->unrounded;
  const bool allow = check->allow_fractions;
  check->n_checked += n;
  for (int64_t i = 0; i < n; ++i) {
    const double v = value[i];
    const bool fine =
        v >= 0 && v <= largest && (allow || (double)(int64_t)v == v); /* largest < 2^63 */
    if (!fine) {
      judge(check, row, gene[i], v);
    }
  }
}

void av_value_check_merge(av_value_check *check, const av_value_check *other) {
  check->n_checked += other->n_checked;
  check->n_bad += other->n_bad;
  check->n_fractions += other->n_fractions;
  check->n_rounded += other->n_rounded;
  if (other->first.row >= 0 && comes_before(&other->first, &check->first)) {
    check->first = other->first;
  }
}

/* What is wrong with a value, in words. */
static const char *fault_of(const av_value_check *check, double value) {
  if (isnan(value)) {
    return "is not a number";
  }
  if (isinf(value)) {
    return "is infinite";
  }
  if (value < 0) {
    return "is negative";
  }
  if (!check->allow_fractions && !is_whole(value)) {
    return "is not a whole number";
  }
  return check->largest > 0x1p24 ? "is too large to be exact"
                                 : "is above 2^24, where 32-bit floats are no longer exact";
}

/* The advice that ends the message. */
static char *cure_of(const av_value_check *check, const char *other) {
  if (other != NULL) {
    return av_format("%s holds counts: set [data] counts = %s", other, other);
  }
  const double value = check->first.value;
  if (check->largest <= 0x1p24 && value > check->largest && value <= DBL_MAX) {
    return av_strdup("if it is a count, store the matrix as integers");
  }
  if (check->n_fractions == check->n_bad) {
    return av_strdup(
        "no other matrix of the file holds counts; to accept fractions set [data] "
        "allow_non_counts = yes");
  }
  return av_strdup("no other matrix of the file holds counts");
}

/* Composes the error; rank 0. */
static av_status fail_bad(const av_value_check *check, const av_matrix *matrix, hid_t file,
                          const char *path, const char *counts, const av_dataset *dataset) {
  av_names links = {0};
  const char *other = NULL;
  AV_TRY(av_matrix_list(&links, file, path));
  for (int64_t i = 0; i < links.n && other == NULL; ++i) {
    bool holds = false;
    if (strcmp(links.at[i], counts) == 0) {
      continue;
    }
    if (av_matrix_holds_counts(file, path, links.at[i], &holds) != AV_OK) {
      av_error_clear(); /* another matrix is damaged: it is no cure */
      holds = false;
    }
    other = holds ? links.at[i] : NULL;
  }
  char *cure = cure_of(check, other);
  char *cell = av_cell_name(file, check->first.row);
  av_error_clear();
  const av_bad_value *first = &check->first;
  char more[96] = "";
  if (check->n_bad > 1) {
    snprintf(more, sizeof more, " (first of %" PRId64 " such values)", check->n_bad);
  }
  const av_status status =
      av_fail(AV_BADDATA, "%s: row %" PRId64 "%s%s%s, gene %s: %.9g %s%s; %s", matrix->what,
              first->row, cell == NULL ? "" : " (", cell == NULL ? "" : cell,
              cell == NULL ? "" : ")", dataset->genes.at[first->gene], first->value,
              fault_of(check, first->value), more, cure == NULL ? "it does not hold counts" : cure);
  free(cell);
  free(cure);
  av_names_free(&links);
  return status;
}

/* The lowest `first` of all ranks, to every rank. */
static av_status reduce_first(av_value_check *check, const av_comm *comm) {
  const size_t size = sizeof check->first;
  av_bad_value *all = av_calloc((size_t)comm->size, size);
  av_status status = AV_OK;
  if (all == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (%d ranks)", comm->size);
  }
  status = av_agree(comm, status);
  if (status == AV_OK) {
    status = AV_MPI(
        MPI_Allgather(&check->first, (int)size, MPI_BYTE, all, (int)size, MPI_BYTE, comm->mpi));
  }
  for (int r = 0; all != NULL && r < comm->size && status == AV_OK; ++r) {
    if (all[r].row >= 0 && comes_before(&all[r], &check->first)) {
      check->first = all[r];
    }
  }
  free(all);
  return status;
}

av_status av_value_check_finish(av_value_check *check, const av_comm *comm, const av_matrix *matrix,
                                hid_t file, const char *path, const char *counts,
                                const av_dataset *dataset) {
  int64_t sums[4] = {check->n_checked, check->n_bad, check->n_fractions, check->n_rounded};
  AV_TRY(av_sum_i64(comm, sums, 4));
  check->n_checked = sums[0];
  check->n_bad = sums[1];
  check->n_fractions = sums[2];
  check->n_rounded = sums[3];
  if (check->n_bad == 0) {
    if (check->n_rounded > 0 && comm->rank == 0) {
      av_warn("%s: %" PRId64
              " values above %.0f are stored as 16-bit floats and so were rounded "
              "when the file was written",
              matrix->what, check->n_rounded, check->unrounded);
    }
    return AV_OK;
  }
  AV_TRY(reduce_first(check, comm));
  av_status status = AV_OK;
  if (comm->rank == 0) {
    status = fail_bad(check, matrix, file, path, counts, dataset);
  }
  return av_agree(comm, status);
}
