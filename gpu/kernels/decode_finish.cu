/* What blocks of rows and tiles have left in parts is added up in double, in the order of the
 * parts. One launch: blocks for the weights' gradients come first, those of inputs and then pieces
 * of runs, then those for dx, then one for the loss. Bound: the bytes of the parts, at small
 * minibatches the launch. */
#include "kernels/decode_inputs.h"
#include "kernels/device.h"

enum {
  THREADS = 256,
  SHARES = 4, /* threads for a number of dx */
  OUTPUTS = THREADS / SHARES
};

typedef struct finish_shape {
  int64_t gene_blocks, weight_blocks, piece_blocks, dx_blocks;
} finish_shape;

/* Where row `row` of partial goes; NULL: nowhere. */
static __device__ __forceinline__ float *weight_row(const av_gpu_decode &call, int row) {
  const int h = row / call.width;
  const int k = row % call.width;
  if (h >= call.n_heads) {
    return call.dpx_r;
  }
  return k == call.width - 1
             ? call.head[h].dc
             : call.head[h].dw + av_row_of_input<AV_TILE_WINDOW>(call, k) * call.n_genes;
}

static __device__ void add_weights(const av_gpu_decode &call, const finish_shape &shape) {
  const int row = (int)(blockIdx.x / shape.gene_blocks);
  const int64_t g = (int64_t)(blockIdx.x % shape.gene_blocks) * THREADS + threadIdx.x;
  float *to = weight_row(call, row);
  if (to == NULL || g >= call.n_genes) {
    return;
  }
  double sum = 0.0;
  for (int64_t s = 0; s < call.n_slabs; ++s) {
    sum += (double)call.partial[(s * call.n_partial + row) * call.stride + g];
  }
  to[g] = (float)((double)to[g] + sum);
}

/* Pieces of the run that begins with this one, if one does. */
static __device__ void add_pieces(const av_gpu_decode &call, int64_t block, int64_t gene_blocks) {
  const av_gpu_decode_walk &walk = call.walk;
  const int s = (int)(block / gene_blocks % walk.n);
  const int64_t first = block / gene_blocks / walk.n;
  const int64_t g = block % gene_blocks * THREADS + threadIdx.x;
  const int key = walk.piece_of[first];
  int64_t before = first - 1;
  while (before >= 0 && walk.piece_of[before] < 0) {
    --before;
  }
  if (key < 0 || g >= call.n_genes || (before >= 0 && walk.piece_of[before] == key)) {
    return;
  }
  float *to = av_row_of_key(call, s, key) + g;
  double sum = (double)*to;
  for (int64_t piece = first; piece < call.n_slabs * AV_DECODE_PIECES; ++piece) {
    const int other = walk.piece_of[piece];
    if (other >= 0 && other != key) {
      break;
    }
    sum += other < 0 ? 0.0 : (double)walk.pieces[(piece * walk.n + s) * call.stride + g];
  }
  *to = (float)sum;
}

/* Numbers of dx of the chunk and the window, (n, own): SHARES threads for each, which take the
 * tiles in turn. */
static __device__ void write_dx(const av_gpu_decode &call, int64_t block, double *room) {
  const int of = (int)threadIdx.x % OUTPUTS;
  const int share = (int)threadIdx.x / OUTPUTS;
  const int64_t size = call.n * call.own;
  const int64_t at = block * OUTPUTS + of;
  const int64_t live = (av_n_rows(call.rows) - call.first) * call.own;
  double sum = 0.0;
  for (int64_t t = share; at < size && at < live && t < call.n_tiles; t += SHARES) {
    sum += (double)call.dx_partial[t * size + at];
  }
  room[threadIdx.x] = sum;
  __syncthreads();
  if (share == 0 && at < size) {
    for (int s = 1; s < SHARES; ++s) {
      sum += room[s * OUTPUTS + of];
    }
    const int64_t to =
        call.own == call.n_in ? at : at / call.own * call.n_in + call.from + at % call.own;
    call.dx[call.first * call.n_in + to] = (float)sum;
  }
}

static __device__ void add_loss(const av_gpu_decode &call, double *losses, double *room) {
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < call.n; i += THREADS) {
    sum += call.loss[call.first + i]; /* 0 beyond B */
  }
  sum = av_block_sum(sum, room);
  if (threadIdx.x == 0) {
    losses[0] += sum;
  }
}

static __global__ void __launch_bounds__(THREADS)
    finish(const av_gpu_decode call, finish_shape shape, double *losses) {
  __shared__ double room[THREADS];
  if (blockIdx.x < shape.weight_blocks) {
    add_weights(call, shape);
  } else if (blockIdx.x < shape.weight_blocks + shape.piece_blocks) {
    add_pieces(call, blockIdx.x - shape.weight_blocks, shape.gene_blocks);
  } else if (blockIdx.x < shape.weight_blocks + shape.piece_blocks + shape.dx_blocks) {
    write_dx(call, blockIdx.x - shape.weight_blocks - shape.piece_blocks, room);
  } else {
    add_loss(call, losses, room);
  }
}

extern "C" cudaError_t av_gpu_decode_finish(cudaStream_t stream, const av_gpu_decode *call,
                                            bool gradients, double *losses) {
  finish_shape shape = {av_blocks(call->n_genes, THREADS), 0, 0, 0};
  if (gradients) {
    shape.weight_blocks = shape.gene_blocks * call->n_partial;
    if (call->walk.order != NULL) {
      shape.piece_blocks = shape.gene_blocks * call->n_slabs * AV_DECODE_PIECES * call->walk.n;
    }
    shape.dx_blocks = call->wide ? 0 : av_blocks(call->n * call->own, OUTPUTS);
  }
  const int64_t blocks =
      shape.weight_blocks + shape.piece_blocks + shape.dx_blocks + (losses != NULL ? 1 : 0);
  AV_LAUNCH(finish, (unsigned)blocks, THREADS, 0, stream, *call, shape, losses);
  return cudaGetLastError();
}
