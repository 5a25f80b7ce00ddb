#!/bin/bash
# Runs a command with the programs and libraries of the bundle that this lies in (tests/gpu/bundle.sh):
#   BUNDLE/run atlasvi --version       BUNDLE/run mpirun -n 2 atlasvi RUN.ini
# Only bash is needed for it. CUDA and NCCL are the machine's own: from the loader's usual places, or
# from CUDA_HOME, /usr/local/cuda*, or the packages of the python3 in PATH or of the system's.
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd) || exit
if [ "${ATLASVI_BUNDLE-}" != "$here" ]; then # else this is a program that mpirun started
  export ATLASVI_BUNDLE=$here
  export PATH=$here/programs:$PATH
  libraries=$here/lib
  python=$(command -v python3)
  shopt -s nullglob
  # For each library that the programs name, the first folder that has it.
  while read -r name; do
    for folder in "${CUDA_HOME-/usr/local/cuda}"/{lib64,lib,targets/x86_64-linux/lib} \
      /usr/local/cuda*/{lib64,lib} \
      "${python%/bin/*}"/lib/python3*/{site,dist}-packages/nvidia/*/lib \
      /usr/{local/,}lib/python3*/{site,dist}-packages/nvidia/*/lib \
      /opt/{*,*/.venv}/lib/python3*/{site,dist}-packages/nvidia/*/lib \
      /usr/lib/x86_64-linux-gnu /usr/lib64; do
      if [ -e "$folder/$name" ]; then
        case $folder in
          /usr/lib/x86_64-linux-gnu | /usr/lib64) ;; # the loader's own
          *) case :$libraries: in *":$folder:"*) ;; *) libraries=$libraries:$folder ;; esac ;;
        esac
        break
      fi
    done
  done <"$here/needed"
  export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export OPAL_PREFIX=$here/ompi OPAL_LIBDIR=$here/ompi/lib
  export OMPI_MCA_mca_base_component_path=$here/ompi/lib/openmpi
  export PMIX_INSTALL_PREFIX=$here/pmix PMIX_MCA_mca_base_component_path=$here/pmix/lib/pmix
  export HOME=${HOME-/tmp} # PMIx asks the list of users otherwise, and fails if it is not there
  # One machine: no other hosts to reach, and memory that ranks share without ptrace, not in /dev/shm, which
  # is too small in many containers; without that, through the loopback.
  export OMPI_MCA_plm=isolated OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
  export OMPI_MCA_btl_vader_backing_directory=${TMPDIR-/tmp} OMPI_MCA_btl_tcp_if_include=lo
  export OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_rmaps_base_oversubscribe=1
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
[ $# -gt 0 ] || { echo "usage: ${BASH_SOURCE[0]} COMMAND..." >&2; exit 64; }
exec "$@"
