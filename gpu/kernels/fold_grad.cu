/* The fold's gradient: dw, dgamma, dbeta, and what the correction of the input needs. */
#include "kernels/fold_moments.h"

enum {
  BACK = 4, /* rows of M that a block adds */
  BACK_BLOCKS = 512
};

/* What of (C w)_d does not depend on other categories of the same factor. */
static __device__ double across_sum(const av_gpu_fold_shape &shape, const double *pairs, double n,
                                    const moments &u, const weights &w, int d) {
  double sum = 0.0;
  for (int a = 0; a < shape.n_in; ++a) {
    sum += u.cross[a * u.stride + d] * weight_of(u, w, a);
  }
  return shape.n_factors > 1 ? sum + pair_sum(shape, pairs, n, u, w, d) : sum;
}

/* What the gradient of a gene is made of. */
struct gene_gradient {
  double s, scaled, curve; /* gamma / sigma, dgamma / sigma */
  double share;            /* sum of f_s w_s */
};

/* dgamma of a lane's gene, and the rest. By a block, whose warps take rows in turn. */
static __device__ double gene_dgamma(const av_gpu_fold_shape &shape, const av_gpu_fold_arrays &fold,
                                     const moments &u, const weights &w, const float *p, int64_t g,
                                     gene_gradient *out) {
  __shared__ double part[2][WARPS][AV_WARP];
  double along = 0.0; /* sum of w_d P_d, P centred */
  double share = 0.0;
  for (int d = warp_of(); d < u.width; d += WARPS) {
    const double wd = weight_of(u, w, d);
    along += wd * ((double)p[row_of(u, d) * shape.n_genes + g] - u.mean[d] * out->s);
    share += d < shape.n_in ? 0.0 : u.mean[d] * wd;
  }
  part[0][warp_of()][lane_of()] = along;
  part[1][warp_of()][lane_of()] = share;
  __syncthreads();
  const double inverse = (double)fold.inv_sigma[g];
  const double dgamma = over_warps(part[0]) * inverse;
  out->share = over_warps(part[1]);
  out->scaled = (double)fold.gamma[g] * inverse;
  out->curve = dgamma * inverse;
  return dgamma;
}

/* (C w)_d. */
static __device__ double covariance(const av_gpu_fold_shape &shape, const double *pairs, double n,
                                    const moments &u, const weights &w, int d, double share) {
  if (d < shape.n_in) {
    return row_sum(u, u.cross + d * u.stride, w, 0, u.width);
  }
  return u.mean[d] * (weight_of(u, w, d) - share) + across_sum(shape, pairs, n, u, w, d);
}

/* A block for 32 genes: dw, dgamma, dbeta and the weights of the sums over genes. */
static __global__ void grad_genes(av_gpu_fold_shape shape, av_gpu_fold_arrays fold,
                                  const double *stats, const av_gpu_step *step,
                                  av_gpu_fold_work work, bool wide, const float *p,
                                  const float *sums, float *dw, float *dgamma, float *dbeta) {
  AV_SHARED_ARRAY(double, shared);
  const int64_t genes = shape.n_genes;
  const int64_t gene = (int64_t)blockIdx.x * AV_WARP + lane_of();
  const bool there = gene < genes;
  const int64_t g = there ? gene : genes - 1;
  const double n = (double)step->n_cells;
  weights w = {fold.w + g, genes};
  moments u;
  if (wide) {
    u = moments_there(shape, work);
  } else {
    w = stage_weights(shape, fold.w, g, (float *)(shared + width_of(shape) * (shape.n_in + 1)));
    u = moments_here(shape, stats, n, shared);
  }
  gene_gradient of;
  of.s = (double)sums[g];
  const double slope = gene_dgamma(shape, fold, u, w, p, g, &of);
  if (there && warp_of() == 0) {
    dgamma[g] += (float)slope;
    dbeta[g] += sums[g];
    work.weight[g] = of.scaled * of.curve / n;
  }
  const double *pairs = parts_of(shape, stats).pairs;
  for (int d = warp_of(); d < u.width; d += WARPS) {
    const int64_t at = row_of(u, d) * genes + g;
    const double cw = covariance(shape, pairs, n, u, w, d, of.share);
    if (there) {
      dw[at] += (float)(of.scaled * ((double)p[at] - u.mean[d] * of.s - of.curve * cw));
    }
  }
}

/* back = {A_x s, M_x.}, what no cell has left out: a block adds BACK rows of a column over the
 * genes. Column 0 is A_x s. */
static __global__ void sum_back(av_gpu_fold_shape shape, av_gpu_fold_arrays fold,
                                av_gpu_fold_work work, bool wide, const float *sums, double *back) {
  __shared__ double room[WARPS][BACK];
  const int k = shape.n_in;
  const int64_t genes = shape.n_genes;
  const int first = (int)blockIdx.y * BACK;
  const int width = wide ? *work.width : width_of(shape);
  for (int column = (int)blockIdx.x; column <= width; column += (int)gridDim.x) {
    const int d = column == 0 ? 0 : wide ? work.code[column - 1] : column - 1;
    const float *left = column == 0 ? fold.a : fold.w;
    const float *right = column == 0 ? sums : fold.w + d * genes;
    double sum[BACK] = {};
    for (int64_t g = thread_of(); g < genes; g += THREADS) {
      const double factor = (double)right[g] * (column == 0 ? 1.0 : work.weight[g]);
      for (int q = 0; q < BACK; ++q) {
        sum[q] += factor * (double)left[min(first + q, k - 1) * genes + g];
      }
    }
    for (int q = 0; q < BACK; ++q) {
      const double total = av_warp_sum(sum[q]);
      if (lane_of() == 0) {
        room[warp_of()][q] = total;
      }
    }
    __syncthreads();
    const int a = first + thread_of();
    if (thread_of() < BACK && a < k) {
      double total = 0.0;
      for (int v = 0; v < WARPS; ++v) {
        total += room[v][thread_of()];
      }
      back[column == 0 ? a : k + (int64_t)a * width_of(shape) + d] = total;
    }
    __syncthreads();
  }
}

cudaError_t av_gpu_run_fold_grad(cudaStream_t stream, const av_gpu_fold_shape *shape,
                                 const av_gpu_fold_arrays *fold, const double *stats,
                                 const av_gpu_step *step, const av_gpu_fold_work *work,
                                 const float *p, const float *s, float *dw, float *dgamma,
                                 float *dbeta, double *back) {
  const bool wide = av_gpu_fold_is_wide(shape);
  const int columns = 1 + shape->n_in + shape->n_onehot;
  if (wide) {
    const size_t numbers = (size_t)shape->n_in * (size_t)columns;
    const cudaError_t cleared = cudaMemsetAsync(back, 0, numbers * sizeof *back, stream);
    if (cleared != cudaSuccess) {
      return cleared;
    }
    av_gpu_fold_prepare(stream, shape, stats, step, work);
  }
  AV_LAUNCH(grad_genes, av_blocks(shape->n_genes, AV_WARP), THREADS, shared_of(shape), stream,
            *shape, *fold, stats, step, *work, wide, p, s, dw, dgamma, dbeta);
  const dim3 grid((unsigned)(columns < BACK_BLOCKS ? columns : BACK_BLOCKS),
                  av_blocks(shape->n_in, BACK));
  AV_LAUNCH(sum_back, grid, THREADS, 0, stream, *shape, *fold, *work, wide, s, back);
  return cudaGetLastError();
}
