# Whether a CUDA and an NCCL that nobody may have tried compile the cuda backend: AV_CUDA_COMPILES. All of
# the host's files, and the kernels that include most, so that the build of the rest need not fail where
# nobody has asked for GPUs. The compilers' words are in cuda_tried.log.
set(tried "${CMAKE_CUDA_COMPILER} ${CUDAToolkit_VERSION} ${CUDAToolkit_INCLUDE_DIRS} ${NCCL_INCLUDE_DIR} \
${NCCL_VERSION} ${last}")
if(NOT AV_CUDA_TRIED STREQUAL tried)
  message(STATUS "Trying CUDA ${CUDAToolkit_VERSION} and NCCL ${NCCL_VERSION}")
  file(GLOB sources ${CMAKE_CURRENT_SOURCE_DIR}/*.c)
  list(REMOVE_ITEM sources ${CMAKE_CURRENT_SOURCE_DIR}/module.c)
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
  set(CMAKE_TRY_COMPILE_CONFIGURATION Debug)
  set(CMAKE_C_FLAGS_DEBUG "") # quick
  set(CMAKE_CUDA_ARCHITECTURES ${last}-virtual)
  set(includes ${CMAKE_CURRENT_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/../src ${RANDOM123_INCLUDE}
    ${MPI_C_INCLUDE_DIRS} ${NCCL_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
  try_compile(compiles ${CMAKE_BINARY_DIR}/CMakeFiles/CudaTried
    SOURCES ${sources} ${CMAKE_CURRENT_SOURCE_DIR}/kernels/latent.cu
    CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${includes}"
    COMPILE_DEFINITIONS -D_GNU_SOURCE
    OUTPUT_VARIABLE text
    C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS ON
    CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS OFF)
  file(WRITE ${CMAKE_BINARY_DIR}/cuda_tried.log "${text}")
  set(AV_CUDA_COMPILES ${compiles} CACHE INTERNAL "The cuda backend compiles with")
  if(compiles)
    set(AV_CUDA_TRIED "${tried}" CACHE INTERNAL "this CUDA and NCCL")
  else()
    unset(AV_CUDA_TRIED CACHE)
  endif()
endif()
