# Writes OUTPUT, a header with the version, the git revision of SOURCE and the build type, and
# touches it only when that changes. Run at every build:
#   cmake -DSOURCE=... -DOUTPUT=... -DVERSION=... -DBUILD_TYPE=... -P revision.cmake
set(revision unknown)
find_program(GIT git)
if(GIT)
  execute_process(COMMAND ${GIT} -C ${SOURCE} rev-parse --show-prefix
    OUTPUT_VARIABLE prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  # A prefix means that SOURCE is a folder inside somebody else's checkout.
  if(failed EQUAL 0 AND prefix STREQUAL "")
    execute_process(COMMAND ${GIT} -C ${SOURCE} describe --always --dirty --abbrev=12
      OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(failed EQUAL 0)
      set(revision ${described})
    endif()
  endif()
endif()

set(text "#define AV_VERSION \"${VERSION}\"
#define AV_REVISION \"${revision}\"
#define AV_BUILD_TYPE \"${BUILD_TYPE}\"
")
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT "${text}" @ONLY) # writes what differs
