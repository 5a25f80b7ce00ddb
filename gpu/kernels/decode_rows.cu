/* A block has a few cells and all genes: log-sum-exp, loss and Q of each cell, and where the
 * entries of each tile of genes begin. */
#include "kernels/decode_logits.h"

/* Minibatches large enough to fill the device with 4 cells a block read each weight a quarter as
 * often; below, and where 4 cells have too many inputs, a block a cell, of more threads
 * (12,000 inputs have room; n_latent is at most 4,096). */
enum { MANY_ROWS = 1024, RUN = 16 };

template <int TILE>
struct rows_shape {
  static const int threads = TILE == 1 ? 512 : 256;
  static const int blocks = TILE == 1 ? 1 : 2; /* of a multiprocessor: 128 registers a thread */
  static const int warps = threads / AV_WARP;
  static const int cell_threads = threads / TILE; /* whole warps that have a cell's entries */
};

/* Loss and q of each cell. */
template <int TILE>
struct row_sums {
  double loss[TILE], q[TILE];
};

/* Dispersion of gene g in the cell of slab row `row`, where px_r is a parameter. */
static __device__ __forceinline__ float px_r_at(const av_gpu_decode &call, int row, int g) {
  const int64_t of = call.code == NULL ? 0 : call.code[row];
  return __ldg(call.px_r + of * call.n_genes + g);
}

/* --- log-sum-exp ----------------------------------------------------------------------------- */

template <int TILE>
static __device__ __forceinline__ av_lse<TILE> lse_of(const av_gpu_decode &call,
                                                      const av_tile<TILE> &tile) {
  av_lse<TILE> lse;
  av_lse_start(lse);
  for (int g = (int)threadIdx.x; g < call.n_genes; g += (int)blockDim.x) {
    float logit[TILE];
    av_first_logits(call, tile, g, logit);
    av_lse_add(lse, logit);
  }
  return lse;
}

/* What the softmax makes of a cell: `cell` without the factor, and log_sum and sum in `exact`. */
typedef struct cell_facts {
  float4 cell;
  double2 exact;
} cell_facts;

/* any_size: no mean is formed in float, so that none can be too large. log_sum is made for those
 * who read it: cells in double, and Poisson. */
static __device__ AV_SLOW cell_facts facts_of(bool softplus, bool any_size, bool poisson, double l,
                                              float top, double sum) {
  double level = l; /* log of the largest mean there can be */
  if (softplus) {
    const double most = av_softplus((double)top);
    level += most > 1.0 ? log(most) : 0.0;
  }
  const bool fits = any_size || level <= AV_DECODE_LARGEST_LOG;
  cell_facts facts;
  facts.cell =
      make_float4(top, (float)(softplus ? exp(l) : exp(l) / sum), 0.0f, fits ? 0.0f : 1.0f);
  facts.exact.x = fits && !poisson ? 0.0 : log(sum);
  facts.exact.y = sum;
  return facts;
}

/* --- base terms ------------------------------------------------------------------------------ */

/* One gene of cell r, whose mean float cannot hold. */
template <int KIND>
static __device__ __forceinline__ av_nll exact_nll(const av_gpu_decode &call, float4 cell,
                                                   double2 exact, double l, double x, float logit,
                                                   float px_r, float p) {
  const double log_rho = av_exact_log_rho(call.softplus, logit, cell.x, exact.x);
  return av_exact_nll<KIND>(x, l + log_rho, (double)px_r, (double)p);
}

static __device__ __forceinline__ float mean_of(const av_gpu_decode &call, float4 cell,
                                                float logit) {
  return cell.y * (call.softplus ? av_softplus_of(logit).value : expf(logit - cell.x));
}

template <int KIND, int TILE>
static __device__ __forceinline__ void add_base(const av_gpu_decode &call,
                                                const av_tile<TILE> &tile, const float4 *cell,
                                                const double2 *exact, row_sums<TILE> &sums) {
  typedef av_kind_of<KIND> kind;
  float loss[TILE];
  float q[TILE];
  int run = 0;
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    loss[r] = 0.0f;
    q[r] = 0.0f;
  }
  for (int g = (int)threadIdx.x; g < call.n_genes; g += (int)blockDim.x) {
    float logit[TILE];
    float p[TILE];
    float px_r[TILE];
    av_logits(call, 0, tile, g, logit);
    if (kind::zinb) {
      av_logits(call, kind::zero_head, tile, g, p);
    }
    if (kind::by_cell) {
      av_logits(call, kind::px_r_head, tile, g, px_r);
    }
    av_shape shape = {1.0f, 1.0f, 0.0f};
    if (!kind::by_cell && !kind::poisson && call.code == NULL) {
      px_r[0] = px_r_at(call, 0, g);
      shape = av_shape_of(px_r[0]);
    }
    AV_UNROLL
    for (int r = 0; r < TILE; ++r) {
      if (!kind::poisson && !kind::by_cell) {
        px_r[r] = call.code == NULL ? px_r[0]
                  : r < tile.live   ? px_r_at(call, tile.row[r], g)
                                    : 0.0f;
      }
      if (cell[r].w != 0.0f) {
        const double l = (double)call.l[call.first + tile.first + r];
        const av_nll nll =
            exact_nll<KIND>(call, cell[r], exact[r], l, 0.0, logit[r],
                            kind::poisson ? 0.0f : px_r[r], kind::zinb ? p[r] : 0.0f);
        sums.loss[r] += nll.loss;
        sums.q[r] += nll.q;
      } else {
        if (!kind::poisson && (kind::by_cell || call.code != NULL)) {
          shape = av_shape_of(px_r[r]);
        }
        const float mu = mean_of(call, cell[r], logit[r]);
        const av_terms terms = av_zero_terms<KIND>(mu, shape, kind::zinb ? p[r] : 0.0f);
        loss[r] += terms.loss;
        q[r] += terms.q;
      }
    }
    if (++run == RUN || g + (int)blockDim.x >= call.n_genes) {
      run = 0;
      AV_UNROLL
      for (int r = 0; r < TILE; ++r) {
        sums.loss[r] += (double)loss[r];
        sums.q[r] += (double)q[r];
        loss[r] = 0.0f;
        q[r] = 0.0f;
      }
    }
  }
}

/* --- entries --------------------------------------------------------------------------------- */

/* What entry (g, x) of cell r adds. */
template <int KIND, int TILE>
static __device__ __forceinline__ void add_entry(const av_gpu_decode &call,
                                                 const av_tile<TILE> &tile, float4 cell,
                                                 double2 exact, double l, int r, int row, int g,
                                                 float x, double *loss, double *q) {
  typedef av_kind_of<KIND> kind;
  const float logit = av_logit(call, 0, tile, r, row, g);
  float p = 0.0f;
  float px_r = 0.0f;
  if (kind::zinb) {
    p = av_logit(call, kind::zero_head, tile, r, row, g);
  }
  if (kind::by_cell) {
    px_r = av_logit(call, kind::px_r_head, tile, r, row, g);
  } else if (!kind::poisson) {
    px_r = px_r_at(call, row, g);
  }
  if (cell.w != 0.0f) {
    const av_nll none = exact_nll<KIND>(call, cell, exact, l, 0.0, logit, px_r, p);
    const av_nll some = exact_nll<KIND>(call, cell, exact, l, (double)x, logit, px_r, p);
    *loss += some.loss - none.loss;
    *q += some.q - none.q;
  } else if (kind::poisson) {
    const double log_rho = av_exact_log_rho(call.softplus, logit, cell.x, exact.x);
    *loss += av_log_factorial(x) - (double)x * (l + log_rho);
    *q -= (double)x;
  } else {
    const float mu = mean_of(call, cell, logit);
    const av_count_terms terms = av_terms_of_count<KIND>(x, mu, av_shape_of(px_r), p);
    *loss += terms.loss;
    *q += (double)terms.q;
  }
}

/* Tiles between the one of the entry before `at` and that of `at`, its own included, begin there;
 * those after the last entry, of n, at n. */
static __device__ __forceinline__ void mark_starts(const av_gpu_data &data, int64_t start, int at,
                                                   int g, int32_t *starts) {
  const int before = at == 0 ? -1 : av_entry_gene(data, start + at - 1) / AV_DECODE_GENES;
  for (int t = before + 1; t <= g / AV_DECODE_GENES; ++t) {
    starts[t] = at;
  }
}

/* Entries of the tile's cells: cell_threads threads for each. */
template <int KIND, int TILE>
static __device__ __forceinline__ void add_entries(const av_gpu_decode &call,
                                                   const av_tile<TILE> &tile, const float4 *cell_of,
                                                   const double2 *exact_of, row_sums<TILE> &sums) {
  const av_gpu_data &data = call.rows.data;
  const int per = rows_shape<TILE>::cell_threads;
  const int mine = (int)threadIdx.x / per;
  const int share = (int)threadIdx.x % per;
  if (mine >= tile.live) {
    return;
  }
  const int row = call.rows.row[call.first + tile.first + mine];
  const double l = (double)call.l[call.first + tile.first + mine];
  const float4 cell = cell_of[mine];
  const double2 exact = exact_of[mine];
  const av_entries entries = av_entries_of(call.rows, call.first + tile.first + mine);
  const int64_t start = entries.start;
  const int n = (int)entries.n;
  int32_t *starts =
      call.starts == NULL ? NULL : call.starts + (tile.first + mine) * (call.n_tiles + 1);
  double loss = 0.0;
  double q = 0.0;
  for (int at = share; at < n; at += per) {
    const int g = av_entry_gene(data, start + at);
    if (starts != NULL) {
      mark_starts(data, start, at, g, starts);
    }
    add_entry<KIND, TILE>(call, tile, cell, exact, l, mine, row, g,
                          av_entry_value(data, start + at), &loss, &q);
  }
  if (starts != NULL) {
    const int last = n == 0 ? -1 : av_entry_gene(data, start + n - 1) / AV_DECODE_GENES;
    for (int64_t t = last + 1 + share; t <= call.n_tiles; t += per) {
      starts[t] = n;
    }
  }
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    sums.loss[r] += r == mine ? loss : 0.0;
    sums.q[r] += r == mine ? q : 0.0;
  }
}

/* --- the cell -------------------------------------------------------------------------------- */

/* Sums over the block, to the lanes of warp r < TILE for cell r; room: shared, TILE for each warp.
 */
template <int TILE>
static __device__ __forceinline__ double2 join_sums(const row_sums<TILE> &sums, double2 *room) {
  const int warp = (int)threadIdx.x / AV_WARP;
  const int lane = (int)threadIdx.x % AV_WARP;
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    double2 pair;
    pair.x = av_warp_sum(sums.loss[r]);
    pair.y = av_warp_sum(sums.q[r]);
    if (lane == 0) {
      room[warp * TILE + r] = pair;
    }
  }
  __syncthreads();
  double2 all;
  all.x = 0.0;
  all.y = 0.0;
  if (warp < TILE) {
    const bool one = lane < rows_shape<TILE>::warps;
    const double2 pair = room[(one ? lane : 0) * TILE + warp];
    all.x = av_warp_sum(one ? pair.x : 0.0);
    all.y = av_warp_sum(one ? pair.y : 0.0);
  }
  return all;
}

static __device__ AV_SLOW double slow_exp(double x) { return exp(x); }

/* Loss and Q of row i of the chunk from the sums, and what later kernels need. meanless: Poisson
 * with a softmax, where the sum of mu = exp(l), and d = rho X - x with X the cell's total. */
static __device__ __forceinline__ void finish_cell(const av_gpu_decode &call, bool meanless,
                                                   int64_t i, double2 sums, float4 cell,
                                                   double2 exact) {
  double loss = sums.x;
  double q = sums.y;
  if (meanless) {
    const double rate = slow_exp((double)call.l[call.first + i]);
    cell.y = (float)(-q / exact.y);
    loss += rate;
    q += rate;
  } else {
    cell.z = call.softplus ? 0.0f : (float)(q / exact.y);
  }
  exact.y = q;
  call.loss[call.first + i] = loss;
  call.cell[i] = cell;
  call.exact[i] = exact;
  if (call.dl != NULL) {
    call.dl[call.first + i] = av_bounded_float(q);
  }
}

template <int KIND, int TILE>
static __global__ void __launch_bounds__(rows_shape<TILE>::threads, rows_shape<TILE>::blocks)
    decode_rows(const av_gpu_decode call, bool held) {
  AV_SHARED_ARRAY(float, room_of_logits);
  __shared__ double2 room[rows_shape<TILE>::warps * TILE];
  __shared__ float4 cell[TILE];
  __shared__ double2 exact[TILE];
  const int thread = (int)threadIdx.x;
  const int mine = thread / AV_WARP; /* warps below TILE have a cell: its number */
  const bool meanless = av_kind_of<KIND>::poisson && !call.softplus;
  const av_tile<TILE> tile = av_tile_of<TILE>(call, held, room_of_logits);
  const int64_t i = call.first + tile.first + thread;
  if (thread < TILE && thread >= tile.live && tile.first + thread < call.n) {
    call.loss[i] = 0.0;
    if (call.dl != NULL) {
      call.dl[i] = 0.0f;
    }
  }
  if (tile.live == 0) {
    return; /* the whole block */
  }
  av_tile_inputs(call, tile);
  __syncthreads();
  float top = 0.0f;
  double sum = 1.0;
  av_lse_join(lse_of(call, tile), room, &top, &sum);
  if (mine < TILE && thread % AV_WARP == 0) {
    const bool there = mine < tile.live;
    const double l = there ? (double)call.l[call.first + tile.first + mine] : 0.0;
    const cell_facts facts =
        facts_of(call.softplus, meanless || !there, av_kind_of<KIND>::poisson, l, top, sum);
    cell[mine] = facts.cell;
    exact[mine] = facts.exact;
  }
  __syncthreads();
  row_sums<TILE> sums;
  AV_UNROLL
  for (int r = 0; r < TILE; ++r) {
    sums.loss[r] = 0.0;
    sums.q[r] = 0.0;
  }
  if (!meanless) {
    add_base<KIND, TILE>(call, tile, cell, exact, sums);
  }
  add_entries<KIND, TILE>(call, tile, cell, exact, sums);
  const double2 all = join_sums(sums, room);
  if (mine < tile.live && thread % AV_WARP == 0) {
    finish_cell(call, meanless, tile.first + mine, all, cell[mine], exact[mine]);
  }
}

template <int TILE>
static void launch(cudaStream_t stream, const av_gpu_decode &call) {
  const unsigned grid = av_blocks(call.n, TILE);
  const int threads = rows_shape<TILE>::threads;
  bool held = false;
  const size_t shared = av_tile_bytes(call, TILE, &held);
  switch (call.kind) {
    case AV_DECODE_POISSON:
      AV_LAUNCH((decode_rows<AV_DECODE_POISSON, TILE>), grid, threads, shared, stream, call, held);
      break;
    case AV_DECODE_NB:
      AV_LAUNCH((decode_rows<AV_DECODE_NB, TILE>), grid, threads, shared, stream, call, held);
      break;
    case AV_DECODE_NB_BY_CELL:
      AV_LAUNCH((decode_rows<AV_DECODE_NB_BY_CELL, TILE>), grid, threads, shared, stream, call,
                held);
      break;
    case AV_DECODE_ZINB:
      AV_LAUNCH((decode_rows<AV_DECODE_ZINB, TILE>), grid, threads, shared, stream, call, held);
      break;
    default:
      AV_LAUNCH((decode_rows<AV_DECODE_ZINB_BY_CELL, TILE>), grid, threads, shared, stream, call,
                held);
  }
}

extern "C" cudaError_t av_gpu_decode_rows(cudaStream_t stream, const av_gpu_decode *call) {
  const bool fits = call->wide || call->n_in * 4 * (int64_t)sizeof(float) <= AV_LOGITS_SHARED;
  if (call->rows.max_rows >= MANY_ROWS && fits) {
    launch<4>(stream, *call);
  } else {
    launch<1>(stream, *call);
  }
  return cudaGetLastError();
}
