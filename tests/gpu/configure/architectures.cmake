# Prints what av_ask_nvcc makes of NVCC and WANTED, without $NVCC's place: configure_test.sh.
cmake_minimum_required(VERSION 3.20)
include(${GPU}/CudaArchitectures.cmake)
av_ask_nvcc(${NVCC} "${WANTED}" version architectures lacking)
string(REPLACE "${NVCC}" nvcc lacking "${lacking}")
list(JOIN architectures " " architectures)
message(NOTICE "${version}: ${architectures}${lacking}")
