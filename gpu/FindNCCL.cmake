# NCCL: NCCL_FOUND, NCCL_VERSION and the target NCCL::nccl; else NCCL_WHY, what is wrong with what
# there is. Looked for in $NCCL_HOME, beside CUDA, and where libraries are.
find_path(NCCL_INCLUDE_DIR nccl.h
  HINTS ${NCCL_HOME} ENV NCCL_HOME ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_ROOT}
  PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 NAMES_PER_DIR
  HINTS ${NCCL_HOME} ENV NCCL_HOME ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_ROOT}
  PATH_SUFFIXES lib lib64)
if(NCCL_INCLUDE_DIR)
  set(parts "")
  foreach(part MAJOR MINOR PATCH)
    file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h line REGEX "^#define NCCL_${part} ")
    string(REGEX MATCH "[0-9]+" number "${line}")
    list(APPEND parts ${number})
  endforeach()
  list(JOIN parts . NCCL_VERSION)
endif()
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL REQUIRED_VARS NCCL_LIBRARY NCCL_INCLUDE_DIR
  VERSION_VAR NCCL_VERSION)
if(NCCL_FOUND AND NOT TARGET NCCL::nccl)
  add_library(NCCL::nccl UNKNOWN IMPORTED)
  set_target_properties(NCCL::nccl PROPERTIES IMPORTED_LOCATION ${NCCL_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${NCCL_INCLUDE_DIR})
endif()
set(NCCL_WHY "")
if(NCCL_VERSION AND NCCL_VERSION VERSION_LESS "${NCCL_FIND_VERSION}")
  set(NCCL_WHY " (${NCCL_INCLUDE_DIR}/nccl.h is of ${NCCL_VERSION})")
elseif(NCCL_INCLUDE_DIR AND NOT NCCL_LIBRARY)
  set(NCCL_WHY " (${NCCL_INCLUDE_DIR}/nccl.h is there, libnccl.so is not)")
elseif(NCCL_LIBRARY AND NOT NCCL_INCLUDE_DIR)
  set(NCCL_WHY " (${NCCL_LIBRARY} is there, nccl.h is not)")
endif()
mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
