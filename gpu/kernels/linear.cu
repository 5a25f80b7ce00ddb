#include "kernels/linear.h"

#include "kernels/device.h"

/* DEEP: rows of dw that a block makes. UNROLL: cells whose loads are under way at once. */
enum { THREADS = 256, WARPS = THREADS / AV_WARP, FOUR = 4, DEEP = 16, UNROLL = 4 };
/* Floats of shared memory: what each warp found of a tile of dw, or of 8 rows of y or dx. */
enum { ROOM = WARPS * DEEP * AV_WARP };

static __device__ __forceinline__ int warp_of_thread() { return (int)threadIdx.x / AV_WARP; }
static __device__ __forceinline__ int lane_of_thread() { return (int)threadIdx.x % AV_WARP; }

/* row[k .. k + 3] of a row of n; 0 beyond. VECTOR: rows are aligned to 16 bytes, and n and k are
 * multiples of four. */
template <bool VECTOR>
static __device__ __forceinline__ float4 load_four(const float *row, int k, int n) {
  if (VECTOR) {
    return k < n ? *reinterpret_cast<const float4 *>(row + k) : make_float4(0, 0, 0, 0);
  }
  return make_float4(k < n ? row[k] : 0.0f, k + 1 < n ? row[k + 1] : 0.0f,
                     k + 2 < n ? row[k + 2] : 0.0f, k + 3 < n ? row[k + 3] : 0.0f);
}

static bool is_vector(const float *array, int64_t stride, int n) {
  return (uintptr_t)array % sizeof(float4) == 0 && stride % FOUR == 0 && n % FOUR == 0;
}

/* --- y = x w and dx = dy w^T ---------------------------------------------------------------- */

/* How a product (B, width) with `depth` inner terms is cut: a block has 32 columns and `rows` rows;
 * its warps are `slices` parts of the inner dimension times groups of R rows. */
typedef struct product_plan {
  int depth, width;
  int slices, rows;
  int column_tiles;
  bool vector; /* rows of the left factor, and those of w for dx, can be read 16 bytes at a time */
  unsigned blocks;
} product_plan;

static product_plan plan_product(int64_t max_rows, int depth, int width, int rows_of_warp,
                                 bool vector) {
  product_plan plan = {};
  plan.depth = depth;
  plan.width = width;
  plan.slices = 1;
  while (plan.slices < WARPS && plan.slices * FOUR < depth) {
    plan.slices *= 2;
  }
  plan.rows = WARPS / plan.slices * rows_of_warp;
  plan.column_tiles = (int)av_blocks(width, AV_WARP);
  plan.vector = vector;
  plan.blocks = (unsigned)plan.column_tiles * av_blocks(max_rows, plan.rows);
  return plan;
}

/* Of w (m, n) what inner terms q .. q + 3 have for `column` of y, or of dx (BACK). */
template <bool BACK, bool VECTOR>
static __device__ __forceinline__ float4 load_weights(const av_gpu_dense &layer, int q,
                                                      int column) {
  const int n = layer.n;
  if (BACK) {
    return column < layer.m ? load_four<VECTOR>(layer.w + (int64_t)column * n, q, n)
                            : make_float4(0, 0, 0, 0);
  }
  const float *w = layer.w + (int64_t)q * n + column;
  const int left = column < n ? layer.m - q : 0;
  return make_float4(left > 0 ? w[0] : 0.0f, left > 1 ? w[n] : 0.0f,
                     left > 2 ? w[2 * (int64_t)n] : 0.0f, left > 3 ? w[3 * (int64_t)n] : 0.0f);
}

/* acc[r] = a slice's part of row first + r, column `column`. */
template <bool BACK, bool VECTOR, int R>
static __device__ __forceinline__ void multiply(const av_gpu_dense &layer, const product_plan &plan,
                                                int64_t first, int slice, int column,
                                                float acc[R]) {
  const float *left = BACK ? layer.dy : layer.x;
  const int64_t stride = BACK ? layer.n : layer.x_stride;
  const int n_rows = av_n_rows(layer.rows);
  for (int q = FOUR * slice; q < plan.depth; q += FOUR * plan.slices) {
    const float4 w = load_weights<BACK, VECTOR>(layer, q, column);
    float4 v[R];
    for (int r = 0; r < R; ++r) {
      v[r] = first + r < n_rows ? load_four<VECTOR>(left + (first + r) * stride, q, plan.depth)
                                : make_float4(0, 0, 0, 0);
    }
    for (int r = 0; r < R; ++r) {
      acc[r] = fmaf(v[r].w, w.w, fmaf(v[r].z, w.z, fmaf(v[r].y, w.y, fmaf(v[r].x, w.x, acc[r]))));
    }
  }
}

/* What a column of y has of bias and one-hot rows in row i. */
static __device__ __forceinline__ float start_of(const av_gpu_dense &layer, float bias, int64_t i,
                                                 int column) {
  const av_gpu_data &data = layer.rows.data;
  float sum = bias;
  if (layer.n_onehot > 0) {
    const int32_t *at = data.column + (int64_t)layer.rows.row[i] * data.n_factors;
    for (int f = 0; f < data.n_factors; ++f) {
      sum += layer.w[((int64_t)layer.m + at[f]) * layer.n + column];
    }
  }
  return sum;
}

/* Adds the slices' parts in order and writes the block's tile. room (groups, slices, R, 32). */
template <bool BACK, int R>
static __device__ __forceinline__ void write_tile(const av_gpu_dense &layer,
                                                  const product_plan &plan, int64_t first_row,
                                                  int column, float bias, const float *room) {
  const int lane = lane_of_thread();
  const int n_rows = av_n_rows(layer.rows);
  for (int row = warp_of_thread(); row < plan.rows; row += WARPS) {
    const int64_t i = first_row + row;
    if (i < layer.rows.max_rows && column < plan.width) {
      float sum = !BACK && i < n_rows ? start_of(layer, bias, i, column) : 0.0f;
      for (int s = 0; s < plan.slices; ++s) {
        sum += room[((row / R * plan.slices + s) * R + row % R) * AV_WARP + lane];
      }
      float *to = BACK ? layer.dx + i * layer.dx_stride : layer.y + i * layer.n;
      to[column] = i < n_rows ? sum : 0.0f;
    }
  }
}

/* Block number `block` of a product, by all its threads. */
template <bool BACK, int R>
static __device__ void make_product(const av_gpu_dense &layer, const product_plan &plan, int block,
                                    float *room) {
  const int warp = warp_of_thread();
  const int column = block % plan.column_tiles * AV_WARP + lane_of_thread();
  const int64_t first_row = (int64_t)(block / plan.column_tiles) * plan.rows;
  const int64_t first = first_row + warp / plan.slices * R;
  const bool biased = !BACK && layer.bias != nullptr && column < layer.n;
  const float bias = biased ? layer.bias[column] : 0.0f; /* early: it is on its way meanwhile */
  float acc[R];
  for (int r = 0; r < R; ++r) {
    acc[r] = 0.0f;
  }
  if (plan.vector) {
    multiply<BACK, true, R>(layer, plan, first, warp % plan.slices, column, acc);
  } else {
    multiply<BACK, false, R>(layer, plan, first, warp % plan.slices, column, acc);
  }
  for (int r = 0; r < R; ++r) {
    room[(warp * R + r) * AV_WARP + lane_of_thread()] = acc[r];
  }
  __syncthreads();
  write_tile<BACK, R>(layer, plan, first_row, column, bias, room);
}

template <int R>
static __global__ void forward(av_gpu_dense layer, product_plan plan) {
  __shared__ float room[WARPS * R * AV_WARP];
  make_product<false, R>(layer, plan, (int)blockIdx.x, room);
}

/* Rows of a warp: few while blocks are scarce. */
enum { FEW = 4, MANY = 8, SMALL = 1024 };
static bool is_small(const av_gpu_dense *layer) { return layer->rows.max_rows <= SMALL; }

extern "C" cudaError_t av_gpu_dense_forward(cudaStream_t stream, const av_gpu_dense *layer) {
  const bool small = is_small(layer);
  const product_plan plan =
      plan_product(layer->rows.max_rows, layer->products ? layer->m : 0, layer->n,
                   small ? FEW : MANY, is_vector(layer->x, layer->x_stride, layer->m));
  if (small) {
    AV_LAUNCH((forward<FEW>), plan.blocks, THREADS, 0, stream, *layer, plan);
  } else {
    AV_LAUNCH((forward<MANY>), plan.blocks, THREADS, 0, stream, *layer, plan);
  }
  return cudaGetLastError();
}

/* --- dw and dbias --------------------------------------------------------------------------- */

/* How dw (m + O, n) and dbias are cut into tiles of 16 x 32, first those of x's rows, then those of
 * one-hot rows, then one for dbias; for each 32 columns; and cells into chunks. */
typedef struct outer_plan {
  int dense_tiles, onehot_tiles, tiles; /* of 32 columns */
  int column_tiles;
  int chunks, chunk_rows;
  bool vector; /* rows of x can be read 16 bytes at a time */
  unsigned blocks;
} outer_plan;

/* Cells are cut where the minibatch is large, into parts of 256 at least, and not for more than
 * about four blocks a processor: the order of sums is given by max_rows and the layer alone. */
static outer_plan plan_outer(const av_gpu_dense *layer) {
  enum { WHOLE = 512, LEAST = WARPS * AV_WARP, ENOUGH = 528 };
  const int64_t max_rows = layer->rows.max_rows;
  outer_plan plan = {};
  plan.dense_tiles = layer->products ? (int)av_blocks(layer->m, DEEP) : 0;
  plan.onehot_tiles = (int)av_blocks(layer->n_onehot, DEEP);
  plan.tiles = plan.dense_tiles + plan.onehot_tiles + (layer->dbias != nullptr ? 1 : 0);
  plan.column_tiles = (int)av_blocks(layer->n, AV_WARP);
  plan.vector = is_vector(layer->x, layer->x_stride, layer->m);
  const int64_t all = (int64_t)plan.tiles * plan.column_tiles;
  int64_t chunks = 1;
  if (max_rows > WHOLE && all > 0 && all < ENOUGH) {
    chunks = ENOUGH / all;
    chunks = chunks < max_rows / LEAST ? chunks : max_rows / LEAST;
  }
  /* whole groups of cells to each warp */
  const int64_t groups = (max_rows + LEAST - 1) / LEAST;
  plan.chunk_rows = (int)((groups + chunks - 1) / chunks) * LEAST;
  plan.chunks = (int)av_blocks(max_rows, plan.chunk_rows > 0 ? plan.chunk_rows : 1);
  plan.blocks = (unsigned)(all * plan.chunks);
  return plan;
}

/* acc[r] += x[i][first + r] dy[i][column] over the warp's cells of [begin, end). */
template <bool VECTOR>
static __device__ __forceinline__ void add_dense(const av_gpu_dense &layer, int first, int begin,
                                                 int end, int column, float acc[DEEP]) {
  enum { QUADS = DEEP / FOUR };
  for (int at = begin + UNROLL * warp_of_thread(); at < end; at += UNROLL * WARPS) {
    float d[UNROLL];
    float4 v[UNROLL][QUADS];
    for (int u = 0; u < UNROLL; ++u) {
      const int64_t i = at + u;
      d[u] = i < end && column < layer.n ? layer.dy[i * layer.n + column] : 0.0f;
      for (int q = 0; q < QUADS; ++q) {
        v[u][q] = i < end
                      ? load_four<VECTOR>(layer.x + i * layer.x_stride, first + FOUR * q, layer.m)
                      : make_float4(0, 0, 0, 0);
      }
    }
    for (int u = 0; u < UNROLL; ++u) {
      for (int q = 0; q < QUADS; ++q) {
        acc[FOUR * q] = fmaf(v[u][q].x, d[u], acc[FOUR * q]);
        acc[FOUR * q + 1] = fmaf(v[u][q].y, d[u], acc[FOUR * q + 1]);
        acc[FOUR * q + 2] = fmaf(v[u][q].z, d[u], acc[FOUR * q + 2]);
        acc[FOUR * q + 3] = fmaf(v[u][q].w, d[u], acc[FOUR * q + 3]);
      }
    }
  }
}

/* Of the 32 cells from `cell` on, those of `hits` add their dy[column] to acc[their `place`]; each
 * lane has the place of one. By the whole warp. */
static __device__ __forceinline__ void add_hits(const av_gpu_dense &layer, int64_t cell,
                                                unsigned hits, int place, int column,
                                                float acc[DEEP]) {
  enum { AT_ONCE = 8 };
  for (int b = 0; b < AV_WARP; b += AT_ONCE) {
    if (((hits >> b) & ((1u << AT_ONCE) - 1)) == 0) {
      continue;
    }
    float d[AT_ONCE];
    for (int u = 0; u < AT_ONCE; ++u) {
      const bool hit = ((hits >> (b + u)) & 1u) != 0;
      d[u] = hit && column < layer.n ? layer.dy[(cell + b + u) * layer.n + column] : 0.0f;
    }
    for (int u = 0; u < AT_ONCE; ++u) {
      const int row = __shfl_sync(AV_ALL_LANES, place, b + u);
      for (int r = 0; r < DEEP; ++r) {
        acc[r] += row == r ? d[u] : 0.0f;
      }
    }
  }
}

/* acc[r] += dy[i][column] over the warp's cells of [begin, end) that have one-hot column
 * first + r. By whole warps. */
static __device__ __forceinline__ void add_onehot(const av_gpu_dense &layer, int first, int begin,
                                                  int end, int column, float acc[DEEP]) {
  const av_gpu_data &data = layer.rows.data;
  for (int f = 0; f < data.n_factors; ++f) {
    if (data.factor_first[f] >= first + DEEP || data.factor_first[f + 1] <= first) {
      continue; /* none of its columns is here */
    }
    for (int cell = begin + AV_WARP * warp_of_thread(); cell < end; cell += AV_WARP * WARPS) {
      const int i = cell + lane_of_thread();
      int place = -1;
      if (i < end) {
        place = data.column[(int64_t)layer.rows.row[i] * data.n_factors + f] - first;
      }
      const unsigned hits = __ballot_sync(AV_ALL_LANES, place >= 0 && place < DEEP);
      add_hits(layer, cell, hits, place, column, acc);
    }
  }
}

/* *sum += dy[i][column] over the warp's cells of [begin, end). */
static __device__ __forceinline__ void add_bias(const av_gpu_dense &layer, int begin, int end,
                                                int column, float *sum) {
  for (int at = begin + UNROLL * warp_of_thread(); at < end; at += UNROLL * WARPS) {
    float d[UNROLL];
    for (int u = 0; u < UNROLL; ++u) {
      const int64_t i = at + u;
      d[u] = i < end && column < layer.n ? layer.dy[i * layer.n + column] : 0.0f;
    }
    for (int u = 0; u < UNROLL; ++u) {
      *sum += d[u];
    }
  }
}

/* Where entry (r, column) of a tile belongs; NULL if nowhere. */
static __device__ __forceinline__ float *target_of(const av_gpu_dense &layer,
                                                   const outer_plan &plan, int tile, int r,
                                                   int column) {
  if (column >= layer.n) {
    return nullptr;
  }
  if (tile < plan.dense_tiles) {
    const int k = tile * DEEP + r;
    return k < layer.m ? layer.dw + (int64_t)k * layer.n + column : nullptr;
  }
  tile -= plan.dense_tiles;
  if (tile < plan.onehot_tiles) {
    const int o = tile * DEEP + r;
    return o < layer.n_onehot ? layer.dw + ((int64_t)layer.m + o) * layer.n + column : nullptr;
  }
  return r == 0 ? layer.dbias + column : nullptr;
}

/* A tile's sums over the block's cells: each warp its part. By all threads of the block. */
static __device__ __forceinline__ void add_tile(const av_gpu_dense &layer, const outer_plan &plan,
                                                int tile, int begin, int end, int column,
                                                float acc[DEEP]) {
  const int onehot = tile - plan.dense_tiles;
  if (onehot >= plan.onehot_tiles) {
    add_bias(layer, begin, end, column, acc);
  } else if (onehot >= 0) {
    add_onehot(layer, onehot * DEEP, begin, end, column, acc);
  } else if (plan.vector) {
    add_dense<true>(layer, tile * DEEP, begin, end, column, acc);
  } else {
    add_dense<false>(layer, tile * DEEP, begin, end, column, acc);
  }
}

/* Block number `block` of dw and dbias, by all its threads: added to them, or where there are
 * several chunks to `parts` (chunks, column_tiles, tiles, 16, 32). */
static __device__ void make_outer(const av_gpu_dense &layer, const outer_plan &plan, int block,
                                  float *room, float *parts) {
  const int lane = lane_of_thread();
  const int tile = block % plan.tiles;
  const int column = block / plan.tiles % plan.column_tiles * AV_WARP + lane;
  const int chunk = block / plan.tiles / plan.column_tiles;
  const int n_rows = av_n_rows(layer.rows);
  const int begin = chunk * plan.chunk_rows;
  const int end = n_rows < begin + plan.chunk_rows ? n_rows : begin + plan.chunk_rows;
  float acc[DEEP];
  for (int r = 0; r < DEEP; ++r) {
    acc[r] = 0.0f;
  }
  add_tile(layer, plan, tile, begin, end, column, acc);
  for (int r = 0; r < DEEP; ++r) {
    room[(warp_of_thread() * DEEP + r) * AV_WARP + lane] = acc[r];
  }
  __syncthreads();
  for (int r = warp_of_thread(); r < DEEP; r += WARPS) {
    float sum = 0.0f;
    for (int w = 0; w < WARPS; ++w) {
      sum += room[(w * DEEP + r) * AV_WARP + lane];
    }
    float *to = target_of(layer, plan, tile, r, column);
    if (plan.chunks > 1) {
      parts[((int64_t)block * DEEP + r) * AV_WARP + lane] = sum;
    } else if (to != nullptr) {
      *to += sum;
    }
  }
}

/* dw and dbias += the chunks' parts, in order; a thread for each entry of a tile. */
static __global__ void add_chunks(av_gpu_dense layer, outer_plan plan, const float *parts) {
  const int size = plan.tiles * plan.column_tiles * DEEP * AV_WARP;
  const int at = (int)(blockIdx.x * THREADS + threadIdx.x);
  if (at >= size) {
    return;
  }
  const int r = at / AV_WARP % DEEP;
  const int block = at / (DEEP * AV_WARP);
  const int column = block / plan.tiles * AV_WARP + at % AV_WARP;
  float *to = target_of(layer, plan, block % plan.tiles, r, column);
  float sum = 0.0f;
  for (int c = 0; c < plan.chunks; ++c) {
    sum += parts[(int64_t)c * size + at];
  }
  if (to != nullptr) {
    *to += sum;
  }
}

/* dw and dbias by the first blocks, whose sums are longer, dx by the rest. */
template <int R>
static __global__ void backward(av_gpu_dense layer, outer_plan outer, product_plan product,
                                float *parts) {
  __shared__ float room[ROOM];
  if (blockIdx.x < outer.blocks) {
    make_outer(layer, outer, (int)blockIdx.x, room, parts);
  } else {
    make_product<true, R>(layer, product, (int)(blockIdx.x - outer.blocks), room);
  }
}

extern "C" int64_t av_gpu_dense_scratch(const av_gpu_dense *layer) {
  const outer_plan plan = plan_outer(layer);
  return plan.chunks > 1 ? (int64_t)plan.blocks * DEEP * AV_WARP : 0;
}

extern "C" cudaError_t av_gpu_dense_backward(cudaStream_t stream, const av_gpu_dense *layer,
                                             float *scratch) {
  const bool small = is_small(layer);
  const outer_plan outer = plan_outer(layer);
  const bool vector =
      is_vector(layer->dy, layer->n, layer->n) && is_vector(layer->w, layer->n, layer->n);
  product_plan product =
      plan_product(layer->rows.max_rows, layer->n, layer->m, small ? FEW : MANY, vector);
  if (layer->dx == nullptr || !layer->products) {
    product.blocks = 0;
  }
  const unsigned blocks = outer.blocks + product.blocks;
  if (small) {
    AV_LAUNCH((backward<FEW>), blocks, THREADS, 0, stream, *layer, outer, product, scratch);
  } else {
    AV_LAUNCH((backward<MANY>), blocks, THREADS, 0, stream, *layer, outer, product, scratch);
  }
  if (outer.chunks > 1) {
    const int64_t size = (int64_t)outer.tiles * outer.column_tiles * DEEP * AV_WARP;
    AV_LAUNCH(add_chunks, av_blocks(size, THREADS), THREADS, 0, stream, *layer, outer, scratch);
  }
  return cudaGetLastError();
}
