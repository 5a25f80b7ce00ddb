/* A list of values inside an HDF5 file: a one-dimensional dataset, or one member of a compound
 * dataset (columns of anndata 0.6 and older). Internal to src/io; nothing here is collective.
 */
#ifndef AV_IO_H5_ELEMENT_H
#define AV_IO_H5_ELEMENT_H

#include "io/h5.h"

typedef enum av_element_kind {
  AV_ELEMENT_TEXT,    /* strings of variable or fixed length */
  AV_ELEMENT_INTEGER, /* up to 64 bits */
  AV_ELEMENT_BOOL,    /* enumeration of FALSE and TRUE (and R's NA) */
  AV_ELEMENT_REAL,    /* 16 to 64 bits, or long double */
  AV_ELEMENT_OTHER
} av_element_kind;

typedef struct av_element {
  hid_t dataset; /* -1: none */
  hid_t type;    /* of one value, as stored */
  char *member;  /* of a compound dataset; NULL for a plain one */
  int64_t n;
  av_element_kind kind;
  char *what; /* "pbmc.h5ad: obs/batch", for messages */
} av_element;

/* An element that is not open: closing it does nothing. */
#define AV_ELEMENT_NONE ((av_element){.dataset = -1, .type = -1})

/* Opens the dataset at `link`; checks that its filters are there, that its values are in this file
 * and that it has at most one dimension (a scalar is one value). */
av_status av_element_open(av_element *element, hid_t location, const char *link, const char *what);
/* Takes over an open dataset, closed also on failure. */
av_status av_element_adopt(av_element *element, hid_t dataset, const char *what);
/* A member of an open compound dataset, which is left open. */
av_status av_element_open_member(av_element *element, hid_t dataset, const char *member,
                                 const char *what);
void av_element_close(av_element *element);

/* The stored type in words: "text", "int32", "bool", "float64", "compound", ... Borrowed. */
const char *av_element_type_name(const av_element *element);
/* The same for any type. */
const char *av_h5_type_name(hid_t type);
/* Kind of the values of a type. */
av_element_kind av_element_kind_of(hid_t type);

/* Values [first, first + count), converted by HDF5 to `memory_type`. */
av_status av_element_read(const av_element *element, hid_t memory_type, int64_t first,
                          int64_t count, void *values);

/* All values, owned by the caller. Integers: also of bool (0, 1); an unsigned one over 2^63 - 1 is
 * AV_BADDATA. Reals: of all three numeric kinds. */
av_status av_element_integers(const av_element *element, int64_t **values);
av_status av_element_reals(const av_element *element, double **values);

enum { AV_FLAG_FALSE = 0, AV_FLAG_TRUE = 1, AV_FLAG_MISSING = 2 };
/* Bool enumerations, mapped by member name; integers must be 0 or 1; NaN is missing. */
av_status av_element_flags(const av_element *element, unsigned char **values);

/* All values as text: strings as they are (one warning if some are not UTF-8), numbers in decimal,
 * bool as False and True. missing: as for av_h5_read_strings (NaN, R's NA); may be NULL. */
av_status av_element_names(const av_element *element, av_names *names, unsigned char **missing);

/* av_h5_read_strings of an open dataset or group, which is left open. */
av_status av_object_names(hid_t object, const char *what, av_names *names, unsigned char **missing);

/* A list of strings kept in an attribute; any dimensions, n = 0 if it is absent or empty (of
 * whatever type: anndata writes an empty list as float64). */
av_status av_attribute_names(hid_t object, const char *name, const char *what, av_names *names);

/* A real number as Python prints it: 1.0, 0.25, 1e-07. `single`: of float32 precision. */
void av_real_text(double value, bool single, char text[32]);

#endif
