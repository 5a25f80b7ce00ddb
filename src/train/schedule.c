#include "train/schedule.h"

#include "base/log.h"

#include <math.h>

int64_t av_default_epochs(int64_t n_cells) {
  const double wanted = rint(20000.0 / (double)n_cells * 400.0);
  return wanted > 400.0 ? 400 : wanted < 1.0 ? 1 : (int64_t)wanted;
}

int64_t av_steps_per_epoch(int64_t n_cells, int64_t batch_size) {
  return n_cells / batch_size + (n_cells % batch_size >= 3);
}

double av_kl_weight(const av_config *config, int64_t epoch, int64_t step) {
  const double low = config->train.min_kl_weight;
  const double high = config->train.max_kl_weight;
  const bool by_step = config->train.n_steps_kl_warmup_given;
  const int64_t length =
      by_step ? config->train.n_steps_kl_warmup : config->train.n_epochs_kl_warmup;
  const int64_t now = by_step ? step : epoch;
  if (length <= 0 || now >= length) {
    return high;
  }
  return low + (high - low) * (double)now / (double)length;
}

void av_warn_short_warmup(const av_config *config, int64_t n_epochs, int64_t n_train) {
  if (n_epochs < 1) {
    return;
  }
  const int64_t n_steps = n_epochs * av_steps_per_epoch(n_train, config->train.batch_size);
  const double weight = av_kl_weight(config, n_epochs - 1, n_steps - 1);
  if (weight >= config->train.max_kl_weight) {
    return;
  }
  const bool by_step = config->train.n_steps_kl_warmup_given;
  av_warn(
      "KL warm-up does not finish: the last epoch has kl_weight %.3g of %g; lower train.%s "
      "(%lld, half of the %s, is a good choice)",
      weight, config->train.max_kl_weight, by_step ? "n_steps_kl_warmup" : "n_epochs_kl_warmup",
      (long long)((by_step ? n_steps : n_epochs) / 2), by_step ? "steps" : "epochs");
}
