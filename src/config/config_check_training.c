/* Checks between the keys of [train], and of [runtime]: split, warm-up, stopping, restarts. */
#include "config/config_check.h"

#include <stdlib.h>

static void check_split(av_checker *c) {
  const av_config *config = c->config;
  const av_amount *train = &config->train.train_size;
  const av_amount *validation = &config->train.validation_size;
  if (config->train.split_key_given) {
    static const int sizes[] = {AV_AT_train_train_size, AV_AT_train_validation_size};
    for (int i = 0; i < 2; ++i) {
      char room[48];
      if (av_config_is_given(config, &av_config_keys[sizes[i]])) {
        av_check_fault(c, sizes[i],
                       "split_key, given %s, says where each cell goes; remove one of the two",
                       av_check_place(config, AV_AT_train_split_key, room));
      }
    }
    return;
  }
  if (av_check_usable(config, AV_AT_train_train_size) &&
      av_check_usable(config, AV_AT_train_validation_size) && train->is_fraction &&
      validation->is_fraction && train->fraction + validation->fraction > 1 + 1e-12) {
    char room[48];
    av_check_fault(c, AV_AT_train_validation_size,
                   "%.15g and train_size, %.15g %s, come to more than 1", validation->fraction,
                   train->fraction, av_check_place(config, AV_AT_train_train_size, room));
  }
}

static void check_warmup(av_checker *c) {
  const av_config *config = c->config;
  char room[48];
  if (config->train.n_epochs_kl_warmup_given && config->train.n_steps_kl_warmup_given) {
    av_check_fault(c, AV_AT_train_n_steps_kl_warmup,
                   "n_epochs_kl_warmup is given too, %s; give one of the two",
                   av_check_place(config, AV_AT_train_n_epochs_kl_warmup, room));
  }
  if (av_check_usable(config, AV_AT_train_min_kl_weight) &&
      av_check_usable(config, AV_AT_train_max_kl_weight) &&
      config->train.min_kl_weight > config->train.max_kl_weight) {
    const bool min_given = config->train.min_kl_weight_given;
    av_check_fault(
        c, min_given ? AV_AT_train_min_kl_weight : AV_AT_train_max_kl_weight,
        "%.15g is %s %s_kl_weight, %.15g %s",
        min_given ? config->train.min_kl_weight : config->train.max_kl_weight,
        min_given ? "above" : "below", min_given ? "max" : "min",
        min_given ? config->train.max_kl_weight : config->train.min_kl_weight,
        av_check_place(config, min_given ? AV_AT_train_max_kl_weight : AV_AT_train_min_kl_weight,
                       room));
  }
}

/* Early stopping, keep = best and reduce_lr_on_plateau. */
static void check_stopping(av_checker *c) {
  const av_config *config = c->config;
  char room[48];
  const bool stops =
      config->train.early_stopping_given || !av_check_usable(config, AV_AT_train_early_stopping);
  const bool keeps = config->train.keep_given || !av_check_usable(config, AV_AT_train_keep);
  static const int of_stopping[] = {AV_AT_train_early_stopping_patience,
                                    AV_AT_train_early_stopping_min_delta,
                                    AV_AT_train_early_stopping_warmup_epochs};
  for (int i = 0; i < 3; ++i) {
    av_check_needs_switch(c, of_stopping[i], stops, "early_stopping = yes");
  }
  av_check_needs_switch(c, AV_AT_train_early_stopping_monitor, stops || keeps,
                        "early_stopping = yes or keep = best");
  av_check_needs_switch(c, AV_AT_train_early_stopping_mode, stops || keeps,
                        "early_stopping = yes or keep = best");
  static const int of_plateau[] = {AV_AT_train_lr_factor, AV_AT_train_lr_patience,
                                   AV_AT_train_lr_threshold, AV_AT_train_lr_min,
                                   AV_AT_train_lr_scheduler_metric};
  for (int i = 0; i < 5; ++i) {
    av_check_needs_switch(c, of_plateau[i],
                          config->train.reduce_lr_on_plateau_given ||
                              !av_check_usable(config, AV_AT_train_reduce_lr_on_plateau),
                          "reduce_lr_on_plateau = yes");
  }
  if (config->train.reduce_lr_on_plateau && av_check_usable(config, AV_AT_train_lr) &&
      av_check_usable(config, AV_AT_train_lr_min) && config->train.lr_min > config->train.lr) {
    av_check_fault(c, AV_AT_train_lr_min, "%.15g is above lr, %.15g %s", config->train.lr_min,
                   config->train.lr, av_check_place(config, AV_AT_train_lr, room));
  }
  const bool held_out = config->train.early_stopping_monitor <= AV_MONITOR_VALIDATION_LOSS;
  const int wanting = config->train.early_stopping && held_out ? AV_AT_train_early_stopping
                      : config->train.reduce_lr_on_plateau     ? AV_AT_train_reduce_lr_on_plateau
                      : config->train.keep == AV_KEEP_BEST && held_out ? AV_AT_train_keep
                                                                       : -1;
  if (wanting >= 0 && config->train.check_val_every_n_epoch_given &&
      config->train.max_epochs_given && config->train.max_epochs > 0 &&
      config->train.check_val_every_n_epoch > config->train.max_epochs) {
    av_check_fault(
        c, AV_AT_train_check_val_every_n_epoch,
        "%lld is above max_epochs, %lld %s: %s would see the validation cells only once",
        (long long)config->train.check_val_every_n_epoch, (long long)config->train.max_epochs,
        av_check_place(config, AV_AT_train_max_epochs, room), av_config_keys[wanting].name);
  }
}

/* What is fitted at all, and how often. */
static void check_fits(av_checker *c) {
  const av_config *config = c->config;
  const bool clean = config->origin->n_faults == 0; /* else `load` may be what was misread */
  if (config->model.load == NULL && clean) {
    if (config->train.max_epochs_given && config->train.max_epochs == 0) {
      av_check_fault(c, AV_AT_train_max_epochs,
                     "0 would leave the model untrained; name a model to apply with [model] load");
    }
    if (config->train.update_only_decoder) {
      av_check_fault(c, AV_AT_train_update_only_decoder,
                     "the encoders would stay random; name a model to start from with [model] "
                     "load, or remove this key");
    }
  }
  if (config->train.n_restarts == 1) {
    return;
  }
  if (config->model.load != NULL) {
    av_check_fault(c, AV_AT_train_n_restarts,
                   "every restart would begin with the values of the loaded model; remove this "
                   "key, or [model] load");
  }
  const int64_t highest = (int64_t)av_config_keys[AV_AT_train_seed].high;
  if (config->train.seed > highest - (config->train.n_restarts - 1)) {
    char room[48];
    av_check_fault(c, AV_AT_train_n_restarts,
                   "the seeds from %lld, given %s, go beyond the largest, %lld",
                   (long long)config->train.seed, av_check_place(config, AV_AT_train_seed, room),
                   (long long)highest);
  }
}

static void check_runtime(av_checker *c) {
  const av_config *config = c->config;
  char room[48];
  if (config->runtime.reproducible == AV_REPRODUCIBLE_STRICT &&
      config->runtime.backend == AV_BACKEND_REFERENCE) {
    av_check_fault(c, AV_AT_runtime_reproducible,
                   "strict needs backend = cpu; the reference backend, given %s, offers off and "
                   "run",
                   av_check_place(config, AV_AT_runtime_backend, room));
  }
  const bool cuda = config->runtime.backend == AV_BACKEND_CUDA;
  if (!cuda && config->runtime.precision != AV_PRECISION_FLOAT32) {
    av_check_fault(c, AV_AT_runtime_precision,
                   "%s needs backend = cuda; the others compute in float32 and better",
                   av_config_choice("runtime", "precision", config->runtime.precision));
  }
  if (!cuda && config->runtime.gpu_sums != AV_GPU_SUMS_NCCL) {
    av_check_fault(c, AV_AT_runtime_gpu_sums, "mpi needs backend = cuda");
  }
  if (!cuda && !config->runtime.cuda_graphs) {
    av_check_fault(c, AV_AT_runtime_cuda_graphs, "no needs backend = cuda");
  }
  if (!cuda && config->runtime.gpu_rows != AV_GPU_ROWS_MEASURED) {
    av_check_fault(c, AV_AT_runtime_gpu_rows, "%s needs backend = cuda",
                   av_config_choice("runtime", "gpu_rows", config->runtime.gpu_rows));
  }
  const av_config_key *timeout = &av_config_keys[AV_AT_runtime_gpu_timeout];
  av_check_needs_switch(c, AV_AT_runtime_gpu_timeout,
                        (cuda && config->runtime.gpu_sums == AV_GPU_SUMS_NCCL) ||
                            config->runtime.gpu_timeout == strtod(timeout->default_value, NULL),
                        "backend = cuda and gpu_sums = nccl");
  if (!cuda && config->runtime.gpu_memory > 0.0) {
    av_check_fault(c, AV_AT_runtime_gpu_memory, "a limit needs backend = cuda");
  }
}

void av_check_training(av_checker *c) {
  check_split(c);
  check_warmup(c);
  check_stopping(c);
  check_fits(c);
  check_runtime(c);
}
