/* The models that tests go through. */
#include "model/rig.h"

#include "config/config.h"

#define NB .likelihood = AV_LIKELIHOOD_NB
#define POISSON .likelihood = AV_LIKELIHOOD_POISSON
#define BY_BATCH .dispersion = AV_DISPERSION_GENE_BATCH
#define BY_LABEL .dispersion = AV_DISPERSION_GENE_LABEL
#define BY_CELL .dispersion = AV_DISPERSION_GENE_CELL
#define EVERY_COVARIATE .n_batches = 3, .extras = {.levels = {3, 2}, .n_continuous = 2}

static const rig_case cases[] = {
    /* dispersion */
    {"gene-label", BY_LABEL, .extras = {.n_labels = 3}},
    {"gene-label nb, batches", NB, BY_LABEL, .n_batches = 2, .extras = {.n_labels = 4}},
    {"gene-label, one label", BY_LABEL, .observed = true, .extras = {.n_labels = 1}},
    {"gene-label, covariates", BY_LABEL, .n_batches = 2, .n_layers = 2,
     .extras = {.levels = {3, 0}, .n_continuous = 1, .n_labels = 2}},
    {"labels that nothing uses", NB, .extras = {.n_labels = 3}},
    {"gene-cell", BY_CELL},
    {"gene-cell nb, batches", NB, BY_CELL, .observed = true, .n_batches = 3},
    {"gene-cell, covariates", BY_CELL, EVERY_COVARIATE},
    {"gene-cell nb, two layers", NB, BY_CELL, .n_layers = 2, .n_batches = 2},
    {"gene-cell poisson", POISSON, BY_CELL, .n_batches = 2},
    {"gene-label poisson", POISSON, BY_LABEL, .extras = {.n_labels = 2}},
    /* covariates */
    {"a continuous covariate", NB, .extras = {.n_continuous = 1}},
    {"continuous covariates and batches", .n_batches = 3, .extras = {.n_continuous = 3}},
    {"a categorical covariate, no batches", NB, .extras = {.levels = {3, 0}}},
    {"categorical covariates, no batches", .extras = {.levels = {3, 4}}},
    {"categorical covariates and batches", NB, .n_batches = 3, .extras = {.levels = {2, 3}}},
    {"a covariate with one category", .n_batches = 2, .extras = {.levels = {1, 3}}},
    {"one category alone", NB, .extras = {.levels = {1, 0}}},
    {"every covariate", EVERY_COVARIATE},
    {"every covariate nb, gene-batch", NB, BY_BATCH, EVERY_COVARIATE},
    {"every covariate poisson, two layers", POISSON, .n_layers = 2, EVERY_COVARIATE},
    {"every covariate, first layer only", .shallow = true, .n_layers = 3, EVERY_COVARIATE},
    /* covariates in the encoders */
    {"encoded", .encode = true, EVERY_COVARIATE},
    {"encoded deeply", .encode = true, .n_layers = 2, EVERY_COVARIATE},
    {"encoded, first layer only", .encode = true, .shallow = true, .n_layers = 2, EVERY_COVARIATE},
    {"encoded, observed library", NB, .encode = true, .observed = true, EVERY_COVARIATE},
    {"encoded batches", .encode = true, .n_batches = 3, .n_layers = 3},
    {"encoded, continuous alone", NB, .encode = true, .n_layers = 2, .extras = {.n_continuous = 2}},
    {"encoded, raw counts", .encode = true, .raw_counts = true,
     .extras = {.levels = {2, 2}, .n_continuous = 1}},
    {"encoded, nothing there", .encode = true, .n_layers = 2},
    /* ln */
    {"ln", .ln = true},
    {"ln nb, covariates", NB, .ln = true, EVERY_COVARIATE},
    {"ln, observed, two layers", .ln = true, .observed = true, .n_layers = 2, .n_batches = 2},
    {"ln, gene-cell", BY_CELL, .ln = true, .n_batches = 2},
    /* size factors */
    {"size factor", .extras = {.size_factor = true}},
    {"size factor nb, observed", NB, .observed = true, .extras = {.size_factor = true}},
    {"size factor poisson, batches", POISSON, .n_batches = 3, .extras = {.size_factor = true}},
    {"size factor, covariates, two layers", .n_layers = 2, .n_batches = 2,
     .extras = {.levels = {3, 2}, .n_continuous = 1, .size_factor = true}},
    {"size factor, gene-cell, ln", BY_CELL, .ln = true, .extras = {.size_factor = true}},
    {"size factor, gene-label", NB, BY_LABEL, .extras = {.n_labels = 3, .size_factor = true}},
    /* BatchNorm */
    {"BatchNorm in the encoder", .plain_decoder = true, .n_batches = 2, .n_layers = 2},
    {"BatchNorm in the encoder nb", NB, .plain_decoder = true, EVERY_COVARIATE},
    {"BatchNorm in the encoder, gene-cell", BY_CELL, .plain_decoder = true, EVERY_COVARIATE},
    {"BatchNorm in the decoder", .dense_only = true, .plain_encoder = true, .n_layers = 2,
     .n_batches = 2},
    {"no BatchNorm", .dense_only = true, .plain_encoder = true, .plain_decoder = true,
     .n_layers = 2, EVERY_COVARIATE},
    {"no BatchNorm nb, one layer", NB, .dense_only = true, .plain_encoder = true,
     .plain_decoder = true, .observed = true},
    /* LayerNorm */
    {"LayerNorm in the encoder", .layer_norm_encoder = true, .n_layers = 2},
    {"LayerNorm in the encoder nb, observed", NB, .layer_norm_encoder = true, .observed = true},
    {"LayerNorm in the encoder, encoded", .layer_norm_encoder = true, .encode = true,
     EVERY_COVARIATE},
    {"LayerNorm in the decoder", .dense_only = true, .layer_norm_decoder = true, .n_layers = 2,
     .n_batches = 2},
    {"LayerNorm in both", .dense_only = true, .layer_norm_encoder = true,
     .layer_norm_decoder = true, .n_layers = 2},
    {"LayerNorm without BatchNorm", .dense_only = true, .layer_norm_encoder = true,
     .layer_norm_decoder = true, .plain_encoder = true, .plain_decoder = true, .n_layers = 2,
     EVERY_COVARIATE},
    /* a linear decoder's bias */
    {"bias", .linear_only = true, .bias = true},
    {"bias nb, covariates", NB, .linear_only = true, .bias = true, EVERY_COVARIATE},
    {"bias, gene-cell", BY_CELL, .linear_only = true, .bias = true, .n_batches = 2},
    {"bias without BatchNorm", .linear_only = true, .bias = true, .plain_decoder = true,
     .n_batches = 3},
    {"bias without BatchNorm, gene-cell nb", NB, BY_CELL, .linear_only = true, .bias = true,
     .plain_decoder = true, EVERY_COVARIATE},
    {"bias, size factor", .linear_only = true, .bias = true, .extras = {.size_factor = true}},
    /* much at once */
    {"much", BY_CELL, .linear_only = true, .ln = true, .encode = true, .bias = true,
     .layer_norm_encoder = true, .n_layers = 2, EVERY_COVARIATE},
    {"much, dense", BY_LABEL, .dense_only = true, .ln = true, .encode = true, .shallow = true,
     .layer_norm_encoder = true, .layer_norm_decoder = true, .n_layers = 3, .n_batches = 2,
     .extras = {.levels = {3, 2}, .n_continuous = 2, .n_labels = 3, .size_factor = true}},
};

const rig_case *rig_cases(int64_t *n) {
  *n = (int64_t)(sizeof cases / sizeof *cases);
  return cases;
}

bool rig_case_has(const rig_case *c, bool linear) {
  return linear ? !c->dense_only : !c->linear_only;
}

av_model_spec rig_case_spec(const rig_case *c, bool linear) {
  av_model_spec spec =
      rig_spec(linear, c->likelihood, c->dispersion, !c->observed,
               c->n_layers > 0 ? c->n_layers : 1, c->n_batches > 0 ? c->n_batches : 1);
  spec.simplex = c->ln;
  spec.log1p = !c->raw_counts;
  spec.encode_covariates = c->encode;
  spec.deep_covariates = !c->shallow;
  spec.bias = c->bias;
  spec.encoder_batch_norm = !c->plain_encoder;
  spec.decoder_batch_norm = !c->plain_decoder;
  spec.encoder_layer_norm = c->layer_norm_encoder;
  spec.decoder_layer_norm = c->layer_norm_decoder;
  return rig_spec_with(spec, &c->extras);
}
