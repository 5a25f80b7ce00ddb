/* Every link, attribute and encoding name of an .h5ad, once. Readers and writers use these only. */
#ifndef AV_IO_H5AD_KEYS_H
#define AV_IO_H5AD_KEYS_H

/* Root links. */
#define AV_H5AD_X "X"
#define AV_H5AD_LAYERS "layers"
#define AV_H5AD_OBS "obs"
#define AV_H5AD_VAR "var"
#define AV_H5AD_OBSM "obsm"
#define AV_H5AD_VARM "varm"
#define AV_H5AD_OBSP "obsp"
#define AV_H5AD_VARP "varp"
#define AV_H5AD_UNS "uns"
#define AV_H5AD_RAW "raw"
#define AV_H5AD_RAW_X "raw/X"
#define AV_H5AD_RAW_VAR "raw/var"
/* The same before anndata 0.7. */
#define AV_H5AD_OLD_RAW_X "raw.X"
#define AV_H5AD_OLD_RAW_VAR "raw.var"
#define AV_H5AD_OLD_RAW_VARM "raw.varm"
#define AV_H5AD_OLD_RAW_CATEGORIES "raw.cat"

/* Attributes that say what an element is. */
#define AV_H5AD_ENCODING_TYPE "encoding-type"
#define AV_H5AD_ENCODING_VERSION "encoding-version"

/* encoding-type, and the encoding-version that we write with it. */
#define AV_H5AD_ENC_ANNDATA "anndata"
#define AV_H5AD_ENC_RAW "raw"
#define AV_H5AD_ENC_DICT "dict"
#define AV_H5AD_ENC_CSR "csr_matrix"
#define AV_H5AD_ENC_CSC "csc_matrix"
#define AV_H5AD_ENC_DATAFRAME "dataframe"
#define AV_H5AD_ENC_ARRAY "array"
#define AV_H5AD_ENC_STRING_ARRAY "string-array"
#define AV_H5AD_ENC_STRING "string"
#define AV_H5AD_ENC_NUMBER "numeric-scalar"
#define AV_H5AD_ENC_CATEGORICAL "categorical"
#define AV_H5AD_ENC_NULLABLE_INTEGER "nullable-integer"
#define AV_H5AD_ENC_NULLABLE_BOOLEAN "nullable-boolean"
#define AV_H5AD_ENC_NULLABLE_STRING "nullable-string-array"
#define AV_H5AD_ENC_NULL "null"
#define AV_H5AD_VERSION_1                                                 \
  "0.1.0" /* anndata, raw, dict, csr_matrix, csc_matrix, nullable-*, null \
           */
#define AV_H5AD_VERSION_2 \
  "0.2.0" /* array, string-array, string, numeric-scalar, categorical, dataframe */

/* Sparse matrices. */
#define AV_H5AD_DATA "data"
#define AV_H5AD_INDICES "indices"
#define AV_H5AD_INDPTR "indptr"
#define AV_H5AD_SHAPE "shape"
#define AV_H5AD_OLD_SPARSE_FORMAT "h5sparse_format" /* "csr" or "csc" */
#define AV_H5AD_OLD_SPARSE_SHAPE "h5sparse_shape"

/* Dataframes, their columns. */
#define AV_H5AD_INDEX "_index"              /* attribute: link name of the row names */
#define AV_H5AD_COLUMN_ORDER "column-order" /* attribute */
#define AV_H5AD_ORDERED "ordered"           /* attribute of a categorical */
#define AV_H5AD_CODES "codes"
#define AV_H5AD_CATEGORIES                                              \
  "categories" /* link of a categorical; attribute (a reference) in 0.7 \
                */
#define AV_H5AD_OLD_CATEGORIES "__categories"       /* group of a 0.7 dataframe */
#define AV_H5AD_OLD_CATEGORIES_SUFFIX "_categories" /* uns/<column>_categories, 0.6 and older */
#define AV_H5AD_VALUES "values"                     /* nullable arrays */
#define AV_H5AD_MASK "mask"                         /* true = missing */

/* What we add. */
#define AV_H5AD_LATENT "obsm/X_scvi"
#define AV_H5AD_DENOISED "obsm/X_scvi_denoised"
#define AV_H5AD_SAMPLE_RATE "obsm/X_scvi_sample_rate"
#define AV_H5AD_LOADINGS "uns/ldvae_loadings"
#define AV_H5AD_LOADINGS_VARM "varm/ldvae_loadings"
#define AV_H5AD_INTERCEPT "uns/ldvae_intercept"
#define AV_H5AD_BATCH_OFFSETS "uns/ldvae_batch_offsets"
/* Columns: continuous covariates under their key, categories as "KEY: CATEGORY" (sex: female). */
#define AV_H5AD_COVARIATE_OFFSETS "uns/ldvae_covariate_offsets"
#define AV_H5AD_FACTORS "uns/ldvae_factors" /* variance share, rank, stability */
#define AV_H5AD_OURS "uns/atlasvi"
#define AV_H5AD_OUR_GENES "uns/atlasvi/genes"
#define AV_H5AD_OUR_SETTINGS "uns/atlasvi/settings"
#define AV_H5AD_OUR_VERSIONS "uns/atlasvi/versions"
#define AV_H5AD_OUR_INPUT "uns/atlasvi/input"
#define AV_H5AD_OUR_SPLIT "uns/atlasvi/split"
#define AV_H5AD_OUR_HISTORY "uns/atlasvi/history"
#define AV_H5AD_OUR_RESULT \
  "uns/atlasvi/result" /* cells, n_cells, elbo (negative), reconstruction_loss, kl_local */
#define AV_H5AD_OUR_RESTARTS "uns/atlasvi/restarts"

#endif
