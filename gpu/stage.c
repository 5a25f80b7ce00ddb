#include "stage.h"

#include "base/memory.h"
#include "comm.h"

#include <stdlib.h>
#include <string.h>

/* What travels of a minibatch. The head: number of escapes, then row_start (n + 1). */
enum { HEAD, GENES, VALUES, ESCAPED_AT, ESCAPED_VALUES, SECTIONS };

/* Where a minibatch's sections lie in its slot, one behind the other, aligned. */
typedef struct packing {
  size_t at[SECTIONS], bytes[SECTIONS];
  size_t used;
} packing;

typedef struct slot {
  char *host;          /* pinned */
  char *device;        /* the same bytes */
  cudaEvent_t arrived; /* on the device: the host may write again */
  cudaEvent_t taken;   /* from there: the next may come */
  packing packed;
} slot;

struct av_gpu_stage {
  const av_gpu_source *source;
  size_t capacity[SECTIONS]; /* bytes */
  void *fixed[SECTIONS];     /* what kernels see */
  int32_t *place;            /* (max_rows) 0, 1, 2, ... on the device */
  int64_t *escapes;          /* (max_rows + 1) before each row, host */
  slot slots[AV_GPU_STAGE_SLOTS];
  int next;
};

/* ---- how large minibatches can be ---- */

static av_status tally_begin(av_gpu_tally *tally, int64_t n_rows, int64_t most) {
  tally->n = av_calloc((size_t)most + 1, sizeof *tally->n);
  AV_TRY_ALLOC(tally->n);
  tally->most = n_rows > 0 ? most : 0;
  return AV_OK;
}

static int64_t at_most(int64_t n, int64_t most) { return n < most ? n : most; }

/* Entries and escapes of all rows; a row has no more of either than there are genes. */
static av_status tally_rows(const av_counts *counts, av_gpu_source *source) {
  const int64_t genes = counts->n_genes;
  const int64_t rows = counts->n_rows;
  AV_TRY(tally_begin(&source->entries, rows, at_most(counts->n_nonzero, genes)));
  AV_TRY(tally_begin(&source->escapes, rows, at_most(counts->n_escaped, genes)));
  int64_t e = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t end = counts->row_start[row + 1];
    const int64_t first = e;
    while (e < counts->n_escaped && counts->escaped_at[e] < end) {
      ++e;
    }
    ++source->entries.n[end - counts->row_start[row]];
    ++source->escapes.n[e - first];
  }
  return AV_OK;
}

/* Of the `rows` rows that have most. */
static int64_t most_of(const av_gpu_tally *tally, int64_t rows) {
  int64_t sum = 0;
  for (int64_t n = tally->most; n > 0 && rows > 0; --n) {
    const int64_t taken = at_most(tally->n[n], rows);
    sum += taken * n;
    rows -= taken;
  }
  return sum;
}

int64_t av_gpu_source_slot_bytes(const av_gpu_source *source, int64_t max_rows) {
  return av_gpu_slot_bytes(&source->slab, max_rows, most_of(&source->entries, max_rows),
                           most_of(&source->escapes, max_rows));
}

av_status av_gpu_source_create(const av_dataset *dataset, av_gpu_source **source) {
  av_gpu_source *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->counts = &dataset->counts;
  made->slab = av_gpu_slab_of(dataset);
  av_status status = tally_rows(made->counts, made);
  if (status == AV_OK) {
    status = AV_CUDA(cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking));
  }
  if (status != AV_OK) {
    av_gpu_source_free(made);
    return status;
  }
  *source = made;
  return AV_OK;
}

void av_gpu_source_free(av_gpu_source *source) {
  if (source == NULL) {
    return;
  }
  if (source->stream != NULL) {
    (void)cudaStreamDestroy(source->stream);
  }
  free(source->entries.n);
  free(source->escapes.n);
  free(source);
}

/* ---- the ring ---- */

/* Bytes of the sections of n rows with so many entries and escapes. */
static void measure(const av_gpu_slab *slab, int64_t n, int64_t entries, int64_t escapes,
                    size_t bytes[SECTIONS]) {
  bytes[HEAD] = (size_t)(n + 2) * sizeof(int64_t);
  bytes[GENES] = (size_t)(entries * slab->gene_bytes);
  bytes[VALUES] = (size_t)(entries * slab->value_bytes);
  bytes[ESCAPED_AT] = (size_t)escapes * sizeof(int64_t);
  bytes[ESCAPED_VALUES] = (size_t)escapes * sizeof(float);
}

static av_status make_slot(slot *made, size_t bytes) {
  AV_TRY(AV_CUDA(cudaMallocHost((void **)&made->host, bytes)));
  AV_TRY(AV_CUDA(cudaMalloc((void **)&made->device, bytes)));
  AV_TRY(AV_CUDA(cudaEventCreateWithFlags(&made->arrived, cudaEventDisableTiming)));
  return AV_CUDA(cudaEventCreateWithFlags(&made->taken, cudaEventDisableTiming));
}

/* A minibatch's rows have their entries in their own order. */
static av_status make_places(av_backend *be, av_gpu_stage *stage, int64_t max_rows) {
  const size_t bytes = (size_t)max_rows * sizeof *stage->place;
  int32_t *place = av_malloc((size_t)max_rows, sizeof *place);
  AV_TRY_ALLOC(place);
  for (int64_t i = 0; i < max_rows; ++i) {
    place[i] = (int32_t)i;
  }
  av_status status = AV_CUDA(cudaMalloc((void **)&stage->place, bytes > 0 ? bytes : 1));
  if (status == AV_OK) {
    status = AV_CUDA(
        cudaMemcpyAsync(stage->place, place, bytes, cudaMemcpyHostToDevice, av_gpu_of(be)->stream));
  }
  if (status == AV_OK) {
    status = av_gpu_wait(be, "a new minibatch");
  }
  free(place);
  return status;
}

static av_status make_arrays(av_backend *be, av_gpu_stage *stage, int64_t max_rows) {
  const av_gpu_source *source = stage->source;
  stage->escapes = av_calloc((size_t)max_rows + 1, sizeof *stage->escapes);
  AV_TRY_ALLOC(stage->escapes);
  measure(&source->slab, max_rows, most_of(&source->entries, max_rows),
          most_of(&source->escapes, max_rows), stage->capacity);
  for (int s = 0; s < SECTIONS; ++s) {
    const size_t bytes = stage->capacity[s] > 0 ? stage->capacity[s] : 1;
    AV_TRY(AV_CUDA(cudaMalloc(&stage->fixed[s], bytes)));
  }
  /* a batch without rows until one is selected */
  AV_TRY(AV_CUDA(
      cudaMemsetAsync(stage->fixed[HEAD], 0, stage->capacity[HEAD], av_gpu_of(be)->stream)));
  AV_TRY(make_places(be, stage, max_rows));
  const size_t bytes = (size_t)av_gpu_source_slot_bytes(source, max_rows);
  for (int i = 0; i < AV_GPU_STAGE_SLOTS; ++i) {
    AV_TRY(make_slot(&stage->slots[i], bytes));
  }
  return AV_OK;
}

static void show(const av_gpu_stage *stage, av_gpu_rows *view) {
  view->place = stage->place;
  view->data.n_escaped = stage->fixed[HEAD];
  view->data.row_start = view->data.n_escaped + 1;
  view->data.gene = stage->fixed[GENES];
  view->data.value = stage->fixed[VALUES];
  view->data.escaped_at = stage->fixed[ESCAPED_AT];
  view->data.escaped_value = stage->fixed[ESCAPED_VALUES];
}

av_status av_gpu_stage_create(av_backend *be, const av_gpu_source *source, int64_t max_rows,
                              av_gpu_rows *view, av_gpu_stage **stage) {
  av_gpu_stage *made = av_calloc(1, sizeof *made);
  AV_TRY_ALLOC(made);
  made->source = source;
  const av_status status = make_arrays(be, made, max_rows);
  if (status != AV_OK) {
    av_gpu_stage_free(be, made);
    return status;
  }
  show(made, view);
  *stage = made;
  return AV_OK;
}

static void free_slot(slot *of) {
  if (of->host != NULL) {
    (void)cudaFreeHost(of->host);
  }
  if (of->device != NULL) {
    (void)cudaFree(of->device);
  }
  if (of->arrived != NULL) {
    (void)cudaEventDestroy(of->arrived);
  }
  if (of->taken != NULL) {
    (void)cudaEventDestroy(of->taken);
  }
}

void av_gpu_stage_free(av_backend *be, av_gpu_stage *stage) {
  if (stage == NULL) {
    return;
  }
  av_gpu_settle(be, "minibatches, to be freed"); /* the stream has waited for the copies' */
  for (int i = 0; i < AV_GPU_STAGE_SLOTS; ++i) {
    free_slot(&stage->slots[i]);
  }
  for (int s = 0; s < SECTIONS; ++s) {
    if (stage->fixed[s] != NULL) {
      (void)cudaFree(stage->fixed[s]);
    }
  }
  if (stage->place != NULL) {
    (void)cudaFree(stage->place);
  }
  free(stage->escapes);
  free(stage);
}

/* ---- gathering ---- */

/* Codes that stand for an escape among n values from number `first` on. */
static int64_t count_escapes(const av_counts *counts, int64_t first, int64_t n) {
  int64_t found = 0;
  if (counts->kind == AV_COUNT_U8) {
    const uint8_t *code = (const uint8_t *)counts->value + first;
    for (int64_t i = 0; i < n; ++i) {
      found += code[i] == UINT8_MAX ? 1 : 0;
    }
  } else if (counts->kind == AV_COUNT_U16) {
    const uint16_t *code = (const uint16_t *)counts->value + first;
    for (int64_t i = 0; i < n; ++i) {
      found += code[i] == UINT16_MAX ? 1 : 0;
    }
  }
  return found;
}

/* Entries of row i, and how many of them are escapes. */
static void copy_row(const av_gpu_source *source, int64_t row, int64_t i, const packing *to,
                     char *host, int64_t *escapes) {
  const av_counts *counts = source->counts;
  const size_t of_gene = (size_t)source->slab.gene_bytes;
  const size_t of_value = (size_t)source->slab.value_bytes;
  const size_t from = (size_t)counts->row_start[row];
  const size_t n = (size_t)counts->row_start[row + 1] - from;
  const size_t start = (size_t)((const int64_t *)(const void *)host)[1 + i];
  if (n > 0) {
    memcpy(host + to->at[GENES] + start * of_gene, (const char *)counts->gene + from * of_gene,
           n * of_gene);
    memcpy(host + to->at[VALUES] + start * of_value, (const char *)counts->value + from * of_value,
           n * of_value);
  }
  escapes[i] = counts->n_escaped > 0 ? count_escapes(counts, (int64_t)from, (int64_t)n) : 0;
}

/* The n escapes of row i, as numbers `at` and on; they follow each other in the slab's list too. */
static void copy_escapes(const av_gpu_source *source, int64_t row, int64_t i, const packing *to,
                         char *host, int64_t at, int64_t n) {
  const av_counts *counts = source->counts;
  const int64_t from = counts->row_start[row];
  const int64_t start = ((const int64_t *)(const void *)host)[1 + i];
  int64_t *places = (int64_t *)(void *)(host + to->at[ESCAPED_AT]) + at;
  float *values = (float *)(void *)(host + to->at[ESCAPED_VALUES]) + at;
  const int64_t first = n > 0 ? av_counts_escape_from(counts, from) : 0;
  for (int64_t k = 0; k < n; ++k) {
    places[k] = counts->escaped_at[first + k] - from + start;
    values[k] = (float)counts->escaped_value[first + k];
  }
}

/* Numbers become the sums of those before; returns the sum of all n. */
static int64_t add_up(int64_t *numbers, int64_t n) {
  int64_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t own = numbers[i];
    numbers[i] = sum;
    sum += own;
  }
  numbers[n] = sum;
  return sum;
}

static void place(packing *made, int section) {
  made->at[section] = made->used;
  made->used += (made->bytes[section] + AV_GPU_STAGE_ALIGNMENT - 1) / AV_GPU_STAGE_ALIGNMENT *
                AV_GPU_STAGE_ALIGNMENT;
}

static void check_room(av_backend *be, const av_gpu_stage *stage, const packing *made) {
  for (int s = 0; s < SECTIONS; ++s) {
    if (made->bytes[s] > stage->capacity[s]) {
      av_gpu_must(be, AV_FAIL_BUG("a minibatch of more entries than different rows can have"));
    }
  }
}

/* Fills `host` with n rows' sections. */
static packing gather(av_backend *be, av_gpu_stage *stage, int64_t n, const int64_t *rows,
                      char *host) {
  const av_gpu_source *source = stage->source;
  const int64_t *row_start = source->counts->row_start;
  int64_t *head = (int64_t *)(void *)host;
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < n; ++i) {
    head[1 + i] = row_start[rows[i] + 1] - row_start[rows[i]];
  }
  const int64_t entries = add_up(head + 1, n);
  packing made = {.used = 0};
  measure(&source->slab, n, entries, 0, made.bytes);
  check_room(be, stage, &made);
  place(&made, HEAD);
  place(&made, GENES);
  place(&made, VALUES);
#pragma omp parallel for schedule(static) num_threads(be->threads)
  for (int64_t i = 0; i < n; ++i) {
    copy_row(source, rows[i], i, &made, host, stage->escapes);
  }
  head[0] = add_up(stage->escapes, n);
  measure(&source->slab, n, entries, head[0], made.bytes);
  check_room(be, stage, &made);
  place(&made, ESCAPED_AT);
  place(&made, ESCAPED_VALUES);
  if (head[0] > 0) {
#pragma omp parallel for schedule(static) num_threads(be->threads)
    for (int64_t i = 0; i < n; ++i) {
      copy_escapes(source, rows[i], i, &made, host, stage->escapes[i],
                   stage->escapes[i + 1] - stage->escapes[i]);
    }
  }
  return made;
}

/* ---- sending ---- */

void av_gpu_stage_send(av_backend *be, av_gpu_stage *stage, int64_t n, const int64_t *rows) {
  slot *with = &stage->slots[stage->next];
  cudaStream_t copies = stage->source->stream;
  av_gpu_must(be, av_gpu_wait_event(be, with->arrived, "training steps"));
  with->packed = gather(be, stage, n, rows, with->host);
  AV_GPU_MUST(be, cudaStreamWaitEvent(copies, with->taken, 0));
  AV_GPU_MUST(be, cudaMemcpyAsync(with->device, with->host, with->packed.used,
                                  cudaMemcpyHostToDevice, copies));
  AV_GPU_MUST(be, cudaEventRecord(with->arrived, copies));
}

void av_gpu_stage_take(av_backend *be, av_gpu_stage *stage) {
  slot *with = &stage->slots[stage->next];
  cudaStream_t kernels = av_gpu_of(be)->stream;
  stage->next = (stage->next + 1) % AV_GPU_STAGE_SLOTS;
  AV_GPU_MUST(be, cudaStreamWaitEvent(kernels, with->arrived, 0));
  for (int s = 0; s < SECTIONS; ++s) {
    if (with->packed.bytes[s] > 0) {
      AV_GPU_MUST(be, cudaMemcpyAsync(stage->fixed[s], with->device + with->packed.at[s],
                                      with->packed.bytes[s], cudaMemcpyDeviceToDevice, kernels));
    }
  }
  AV_GPU_MUST(be, cudaEventRecord(with->taken, kernels));
}
