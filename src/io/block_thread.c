#include "io/block_thread.h"

#include "base/memory.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

enum { ALIGNMENT = 64 };

typedef struct job {
  int block;
  int n_parts;
  av_block_part part[AV_BLOCK_PARTS];
} job;

struct av_block_thread {
  av_block_work work;
  void *context;
  int n_blocks;
  int64_t block_bytes;
  unsigned char *blocks;
  bool threaded;
  pthread_t thread;
  pthread_mutex_t lock;   /* guards what follows */
  pthread_cond_t changed; /* a job came, a block became free, or the end */
  bool *taken;            /* (n_blocks) */
  job *jobs;              /* (n_blocks) a ring */
  int n_jobs, first_job;
  bool ends, failed;
};

static void do_job(av_block_thread *t, const job *now, bool *failed) {
  for (int p = 0; p < now->n_parts; ++p) {
    *failed = !t->work(t->context, &now->part[p]) || *failed;
  }
}

static void *take_jobs(void *context) {
  av_block_thread *t = context;
  pthread_mutex_lock(&t->lock);
  for (;;) {
    while (t->n_jobs == 0 && !t->ends) {
      pthread_cond_wait(&t->changed, &t->lock);
    }
    if (t->n_jobs == 0) {
      break;
    }
    const job now = t->jobs[t->first_job];
    t->first_job = (t->first_job + 1) % t->n_blocks;
    t->n_jobs -= 1;
    bool failed = t->failed;
    pthread_mutex_unlock(&t->lock);
    do_job(t, &now, &failed);
    pthread_mutex_lock(&t->lock);
    t->failed = failed;
    t->taken[now.block] = false;
    pthread_cond_broadcast(&t->changed);
  }
  pthread_mutex_unlock(&t->lock);
  return NULL;
}

/* Signals are the main thread's, which removes the temporary (base/unfinished.h). */
static bool start(av_block_thread *t) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(&t->thread, NULL, take_jobs, t);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return error == 0;
}

av_status av_block_thread_create(av_block_thread **thread, int n_blocks, int64_t block_bytes,
                                 av_block_work work, void *context) {
  av_block_thread *t = av_calloc(1, sizeof *t);
  AV_TRY_ALLOC(t);
  *thread = t;
  t->work = work;
  t->context = context;
  t->n_blocks = n_blocks;
  t->block_bytes = (block_bytes / ALIGNMENT + 1) * ALIGNMENT;
  pthread_mutex_init(&t->lock, NULL);
  pthread_cond_init(&t->changed, NULL);
  t->blocks = av_malloc((size_t)n_blocks, (size_t)t->block_bytes);
  t->taken = av_calloc((size_t)n_blocks, sizeof *t->taken);
  t->jobs = av_calloc((size_t)n_blocks, sizeof *t->jobs);
  if (t->blocks == NULL || t->taken == NULL || t->jobs == NULL) {
    av_block_thread_finish(thread);
    return av_fail(AV_NOMEM, "out of memory (%d blocks of %lld bytes)", n_blocks,
                   (long long)block_bytes);
  }
  t->threaded = start(t);
  return AV_OK;
}

void *av_block_thread_room(av_block_thread *t) {
  int free_block = -1;
  pthread_mutex_lock(&t->lock);
  while (free_block < 0) {
    for (int b = 0; b < t->n_blocks && free_block < 0; ++b) {
      free_block = t->taken[b] ? -1 : b;
    }
    if (free_block < 0) {
      pthread_cond_wait(&t->changed, &t->lock);
    }
  }
  t->taken[free_block] = true;
  pthread_mutex_unlock(&t->lock);
  return t->blocks + free_block * t->block_bytes;
}

void av_block_thread_put(av_block_thread *t, void *block, int n_parts, const av_block_part *parts) {
  job next = {.block = (int)(((unsigned char *)block - t->blocks) / t->block_bytes),
              .n_parts = n_parts};
  for (int p = 0; p < n_parts; ++p) {
    next.part[p] = parts[p];
  }
  if (!t->threaded) {
    do_job(t, &next, &t->failed);
    t->taken[next.block] = false;
    return;
  }
  pthread_mutex_lock(&t->lock);
  t->jobs[(t->first_job + t->n_jobs) % t->n_blocks] = next;
  t->n_jobs += 1;
  pthread_cond_broadcast(&t->changed);
  pthread_mutex_unlock(&t->lock);
}

bool av_block_thread_failed(av_block_thread *t) {
  pthread_mutex_lock(&t->lock);
  const bool failed = t->failed;
  pthread_mutex_unlock(&t->lock);
  return failed;
}

void av_block_thread_finish(av_block_thread **thread) {
  av_block_thread *t = *thread;
  if (t == NULL) {
    return;
  }
  if (t->threaded) {
    pthread_mutex_lock(&t->lock);
    t->ends = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
  }
  pthread_cond_destroy(&t->changed);
  pthread_mutex_destroy(&t->lock);
  free(t->blocks);
  free(t->taken);
  free(t->jobs);
  free(t);
  *thread = NULL;
}
