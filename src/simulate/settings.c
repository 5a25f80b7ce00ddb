#include "simulate/settings.h"

#include "data/names.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind { INT, REAL, CHOICE, BOOL } kind;

typedef struct entry {
  const char *name;
  kind kind;
  size_t offset;
  const char *default_text;
  double low, high;
  const char *choices; /* separated by '|', in the order of the enum */
  const char *sentence;
} entry;

#define AT(field) offsetof(av_sim_settings, field)

static const entry table[] = {
    {"cells", INT, AT(cells), "5000", 1, 1e9, NULL, "number of cells"},
    {"genes", INT, AT(genes), "2000", 2, 1e6, NULL, "number of genes"},
    {"factors", INT, AT(factors), "5", 1, 256, NULL, "latent factors"},
    {"batches", INT, AT(batches), "2", 1, 10000, NULL, "experimental batches, equally likely"},
    {"labels", INT, AT(labels), "5", 1, 10000, NULL,
     "cell types, equally likely: clusters of the latent factors"},
    {"seed", INT, AT(seed), "0", 0, 9007199254740992, NULL, "seed of every draw"},
    {"likelihood", CHOICE, AT(likelihood), "nb", 0, 0, "nb|zinb|poisson",
     "distribution of the counts"},
    {"library_mean", REAL, AT(library_mean), "250", 1e-3, 1e6, NULL,
     "mean library size: expected counts of a cell"},
    {"library_sd", REAL, AT(library_sd), "0.4", 0, 2, NULL,
     "standard deviation of log library size within a batch"},
    {"gene_mean_sd", REAL, AT(gene_mean_sd), "1.5", 0, 5, NULL,
     "standard deviation over genes of the log mean frequency"},
    {"dispersion", REAL, AT(dispersion), "2", 1e-3, 1e6, NULL,
     "median over genes of theta, where variance = mu + mu^2 / theta (nb, zinb)"},
    {"dispersion_sd", REAL, AT(dispersion_sd), "0.5", 0, 3, NULL,
     "standard deviation over genes of log theta"},
    {"dropout", REAL, AT(dropout), "0.1", 0, 0.99, NULL,
     "probability of an extra zero (zinb only)"},
    {"marker_fraction", REAL, AT(marker_fraction), "0.1", 0, 1, NULL,
     "share of the genes that are markers of a factor"},
    {"factor_strength", REAL, AT(factor_strength), "1", 0, 5, NULL,
     "standard deviation of the markers' loadings"},
    {"loading_noise", REAL, AT(loading_noise), "0.02", 0, 5, NULL,
     "standard deviation of a small loading that every gene has"},
    {"label_strength", REAL, AT(label_strength), "0.7", 0, 1, NULL,
     "cell types: the square of this is their share of a factor's variance"},
    {"batch_strength", REAL, AT(batch_strength), "0.3", 0, 5, NULL,
     "standard deviation of a gene's batch offsets"},
    {"library_batch_sd", REAL, AT(library_batch_sd), "0.1", 0, 2, NULL,
     "standard deviation over batches of their mean log library size"},
    {"compression", INT, AT(compression), "0", 0, 9, NULL, "gzip level of the counts, 0 for none"},
    {"overwrite", BOOL, AT(overwrite), "no", 0, 0, NULL, "replace the file if it exists"},
};
enum { N_ENTRIES = sizeof table / sizeof table[0] };

static void *field_of(av_sim_settings *settings, const entry *e) {
  return (char *)settings + e->offset;
}

/* Position of `text` in "a|b|c", or -1. */
static int64_t choice_of(const char *choices, const char *text) {
  const size_t length = strlen(text);
  int64_t position = 0;
  for (const char *at = choices; length > 0; ++position) {
    const size_t width = strcspn(at, "|");
    if (width == length && strncmp(at, text, width) == 0) {
      return position;
    }
    if (at[width] == '\0') {
      break;
    }
    at += width + 1;
  }
  return -1;
}

static int bool_of(const char *text) {
  static const char *const words[] = {"no", "yes", "false", "true", "off", "on"};
  for (int i = 0; i < 6; ++i) {
    if (strcmp(text, words[i]) == 0) {
      return i % 2;
    }
  }
  return -1;
}

static av_status set_integer(int64_t *field, const entry *e, const char *text) {
  char *end = NULL;
  errno = 0;
  const long long value = strtoll(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0 || (double)value < e->low ||
      (double)value > e->high) {
    return av_fail(AV_USAGE, "simulate: %s=%s: must be a whole number from %.0f to %.0f", e->name,
                   text, e->low, e->high);
  }
  *field = value;
  return AV_OK;
}

static av_status set_real(double *field, const entry *e, const char *text) {
  char *end = NULL;
  const double value = strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= e->low && value <= e->high)) {
    return av_fail(AV_USAGE, "simulate: %s=%s: must be a number from %g to %g", e->name, text,
                   e->low, e->high);
  }
  *field = value;
  return AV_OK;
}

static av_status set(av_sim_settings *settings, const entry *e, const char *text) {
  void *field = field_of(settings, e);
  switch (e->kind) {
    case INT:
      return set_integer(field, e, text);
    case REAL:
      return set_real(field, e, text);
    case CHOICE: {
      const int64_t choice = choice_of(e->choices, text);
      if (choice < 0) {
        return av_fail(AV_USAGE, "simulate: %s=%s: must be one of %s", e->name, text, e->choices);
      }
      *(int64_t *)field = choice;
      return AV_OK;
    }
    case BOOL: {
      const int value = bool_of(text);
      if (value < 0) {
        return av_fail(AV_USAGE, "simulate: %s=%s: must be yes or no", e->name, text);
      }
      *(bool *)field = value == 1;
      return AV_OK;
    }
  }
  return AV_FAIL_BUG("setting %s has no kind", e->name);
}

static av_status unknown_key(const char *text, size_t length) {
  const char *names[N_ENTRIES];
  for (int i = 0; i < N_ENTRIES; ++i) {
    names[i] = table[i].name;
  }
  char key[64] = "";
  memcpy(key, text, length < sizeof key ? length : sizeof key - 1);
  const char *nearest = av_nearest(key, N_ENTRIES, names);
  if (nearest != NULL) {
    return av_fail(AV_USAGE, "simulate: %s: unknown setting; did you mean %s?", key, nearest);
  }
  return av_fail(AV_USAGE, "simulate: %s: unknown setting; `atlasvi help simulate` lists them",
                 key);
}

static av_status parse_one(av_sim_settings *settings, bool given[N_ENTRIES], const char *text) {
  const char *equals = strchr(text, '=');
  if (equals == NULL) {
    return av_fail(AV_USAGE, "simulate: %s: settings have the form key=value", text);
  }
  const size_t length = (size_t)(equals - text);
  for (int i = 0; i < N_ENTRIES; ++i) {
    if (strlen(table[i].name) == length && strncmp(table[i].name, text, length) == 0) {
      if (given[i]) {
        return av_fail(AV_USAGE, "simulate: %s: given twice", table[i].name);
      }
      given[i] = true;
      return set(settings, &table[i], equals + 1);
    }
  }
  return unknown_key(text, length);
}

av_status av_sim_settings_parse(av_sim_settings *settings, int n, char *const *texts) {
  *settings = (av_sim_settings){0};
  for (int i = 0; i < N_ENTRIES; ++i) {
    AV_TRY(set(settings, &table[i], table[i].default_text));
  }
  av_status status = AV_OK;
  bool given[N_ENTRIES] = {false};
  for (int i = 0; i < n; ++i) {
    const av_status one = parse_one(settings, given, texts[i]);
    status = status == AV_OK ? one : status;
  }
  for (int i = 0; i < N_ENTRIES; ++i) {
    if (status == AV_OK && given[i] && table[i].offset == AT(dropout) &&
        settings->likelihood != AV_SIM_ZINB) {
      status = av_fail(AV_USAGE, "simulate: dropout: only with likelihood=zinb");
    }
  }
  return status;
}

void av_sim_settings_help(FILE *out) {
  fprintf(out,
          "usage: atlasvi simulate OUT.h5ad [key=value ...]\n\n"
          "Counts with known factors, batches, labels and library sizes, all of which are stored "
          "in the\nfile. The same settings give the same file.\n\n%-16s %-8s %-24s %s\n",
          "key", "default", "values", "what it is");
  for (int i = 0; i < N_ENTRIES; ++i) {
    const entry *e = &table[i];
    char bounds[64];
    if (e->kind == INT) {
      snprintf(bounds, sizeof bounds, "%.0f to %.0f", e->low, e->high);
    } else if (e->kind == REAL) {
      snprintf(bounds, sizeof bounds, "%g to %g", e->low, e->high);
    } else {
      snprintf(bounds, sizeof bounds, "%s", e->kind == BOOL ? "yes or no" : e->choices);
    }
    fprintf(out, "%-16s %-8s %-24s %s\n", e->name, e->default_text, bounds, e->sentence);
  }
}

bool av_sim_settings_value(const av_sim_settings *settings, int i, av_sim_value *value) {
  static const char *const likelihoods[] = {"nb", "zinb", "poisson"};
  if (i < 0 || i >= N_ENTRIES || table[i].kind == BOOL) {
    return false;
  }
  const entry *e = &table[i];
  const void *field = (const char *)settings + e->offset;
  *value = (av_sim_value){.name = e->name, .kind = AV_SIM_INTEGER};
  if (e->kind == INT) {
    value->integer = *(const int64_t *)field;
  } else if (e->kind == REAL) {
    value->kind = AV_SIM_REAL;
    value->real = *(const double *)field;
  } else {
    value->kind = AV_SIM_TEXT;
    value->text = likelihoods[*(const int64_t *)field];
  }
  return true;
}
