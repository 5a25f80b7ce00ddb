/* The LZF filter of h5py (HDF5 filter 32000), reading only. */
#ifndef AV_IO_H5_LZF_H
#define AV_IO_H5_LZF_H

#include "base/status.h"

/* Makes HDF5 able to read datasets compressed with lzf. Idempotent. */
av_status av_h5_register_lzf(void);

#endif
