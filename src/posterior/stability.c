#include "posterior/stability.h"

#include "base/memory.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

void av_factor_directions(int64_t n_genes, int64_t n_factors, const double *loadings,
                          double *directions) {
  for (int64_t k = 0; k < n_factors; ++k) {
    double *direction = directions + k * n_genes;
    double mean = 0.0;
    double largest = 0.0;
    for (int64_t g = 0; g < n_genes; ++g) {
      mean += loadings[g * n_factors + k] / (double)n_genes;
      largest = fmax(largest, fabs(loadings[g * n_factors + k]));
    }
    double squares = 0.0;
    for (int64_t g = 0; g < n_genes; ++g) {
      direction[g] = loadings[g * n_factors + k] - mean;
      squares += direction[g] * direction[g];
    }
    /* what rounding leaves of a constant is no direction */
    const double length = sqrt(squares);
    const bool constant = !(length > 1e-12 * largest * sqrt((double)n_genes));
    for (int64_t g = 0; g < n_genes; ++g) {
      direction[g] = constant ? 0.0 : direction[g] / length;
    }
  }
}

/* Shortest augmenting paths with potentials (the Hungarian method) for the costs -value. Rows and
 * columns count from 1; column 0 holds the row that is being placed. */
typedef struct pairing {
  int64_t n;
  const double *value;
  double *row_price, *column_price; /* (n + 1) */
  double *slack;                    /* (n + 1) least reduced cost of a way to each column */
  int64_t *row_of;                  /* (n + 1) row in each column; 0: free */
  int64_t *before;                  /* (n + 1) column before each on that way */
  bool *reached;                    /* (n + 1) */
} pairing;

/* Goes on from `column`, the last one reached; returns the next, to which the way is shortest. */
static int64_t extend(pairing *p, int64_t column) {
  const int64_t row = p->row_of[column];
  double shortest = INFINITY;
  int64_t next = 0;
  for (int64_t j = 1; j <= p->n; ++j) {
    if (p->reached[j]) {
      continue;
    }
    const double cost =
        -p->value[(row - 1) * p->n + j - 1] - p->row_price[row] - p->column_price[j];
    if (cost < p->slack[j]) {
      p->slack[j] = cost;
      p->before[j] = column;
    }
    if (p->slack[j] < shortest) {
      shortest = p->slack[j];
      next = j;
    }
  }
  for (int64_t j = 0; j <= p->n; ++j) {
    if (p->reached[j]) {
      p->row_price[p->row_of[j]] += shortest;
      p->column_price[j] -= shortest;
    } else {
      p->slack[j] -= shortest;
    }
  }
  return next;
}

static void place_row(pairing *p, int64_t row) {
  for (int64_t j = 0; j <= p->n; ++j) {
    p->slack[j] = INFINITY;
    p->reached[j] = false;
  }
  p->row_of[0] = row;
  int64_t column = 0;
  do {
    p->reached[column] = true;
    column = extend(p, column);
  } while (p->row_of[column] != 0);
  while (column != 0) { /* every row on the way moves one column on */
    p->row_of[column] = p->row_of[p->before[column]];
    column = p->before[column];
  }
}

av_status av_best_pairing(int64_t n, const double *value, int64_t *partner) {
  const size_t room = (size_t)n + 1;
  pairing p = {.n = n,
               .value = value,
               .row_price = av_calloc(room, sizeof(double)),
               .column_price = av_calloc(room, sizeof(double)),
               .slack = av_calloc(room, sizeof(double)),
               .row_of = av_calloc(room, sizeof(int64_t)),
               .before = av_calloc(room, sizeof(int64_t)),
               .reached = av_calloc(room, sizeof(bool))};
  av_status status = AV_OK;
  if (p.row_price == NULL || p.column_price == NULL || p.slack == NULL || p.row_of == NULL ||
      p.before == NULL || p.reached == NULL) {
    status = av_fail(AV_NOMEM, "out of memory (pairs of %lld factors)", (long long)n);
  }
  for (int64_t row = 1; status == AV_OK && row <= n; ++row) {
    place_row(&p, row);
  }
  for (int64_t j = 1; status == AV_OK && j <= n; ++j) {
    partner[p.row_of[j] - 1] = j - 1;
  }
  free(p.row_price);
  free(p.column_price);
  free(p.slack);
  free(p.row_of);
  free(p.before);
  free(p.reached);
  return status;
}

av_status av_factor_likeness(int64_t n_genes, int64_t n_factors, const double *mine,
                             const double *other, double *likeness) {
  double *cosine = av_calloc((size_t)(n_factors * n_factors), sizeof *cosine);
  int64_t *partner = av_calloc((size_t)n_factors, sizeof *partner);
  av_status status = cosine == NULL || partner == NULL
                         ? av_fail(AV_NOMEM, "out of memory (likeness of factors)")
                         : AV_OK;
  for (int64_t i = 0; status == AV_OK && i < n_factors; ++i) {
    for (int64_t j = 0; j < n_factors; ++j) {
      double sum = 0.0;
      for (int64_t g = 0; g < n_genes; ++g) {
        sum += mine[i * n_genes + g] * other[j * n_genes + g];
      }
      cosine[i * n_factors + j] = fmin(fabs(sum), 1.0);
    }
  }
  if (status == AV_OK) {
    status = av_best_pairing(n_factors, cosine, partner);
  }
  for (int64_t k = 0; status == AV_OK && k < n_factors; ++k) {
    likeness[k] += cosine[k * n_factors + partner[k]];
  }
  free(cosine);
  free(partner);
  return status;
}
