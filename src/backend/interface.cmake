# Writes OUTPUT, a header with AV_INTERFACE: a text that changes with any header of SOURCE, and with
# MPI's (MPI_HEADER), whose types are in ours. Who loads code of another build compares it: where it
# is the same, types and functions are. Touches OUTPUT only when that changes. Run at every build:
#   cmake -DSOURCE=.../src -DMPI_HEADER=.../mpi.h -DOUTPUT=... -P interface.cmake
file(GLOB_RECURSE headers RELATIVE ${SOURCE} ${SOURCE}/*.h ${SOURCE}/*.def)
list(SORT headers)
set(sums "")
foreach(header ${headers})
  file(SHA256 ${SOURCE}/${header} sum)
  string(APPEND sums "${header} ${sum}\n")
endforeach()
if(EXISTS "${MPI_HEADER}")
  file(SHA256 ${MPI_HEADER} sum)
  string(APPEND sums "mpi.h ${sum}\n")
endif()
string(SHA256 interface "${sums}")

set(text "#define AV_INTERFACE \"${interface}\"\n")
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "${text}" @ONLY) # writes what differs
