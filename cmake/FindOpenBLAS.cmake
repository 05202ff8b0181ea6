# Finds a *thread-safe* OpenBLAS. Debian installs three flavours side by side under one SONAME:
#   serial   compiled without any lock: concurrent calls hand out the same packing buffer and
#            return wrong products (src/README.md, "Which BLAS"). Never link it.
#   pthread  locked. Its own pool is switched off at start (backend/cpu/cpu_backend.cpp), so that
#            our OpenMP threads are the only ones.
# Defines OpenBLAS::OpenBLAS with an RPATH to the pthread flavour, so that the run-time linker
# cannot fall back to another flavour of the same SONAME.
find_path(OpenBLAS_INCLUDE_DIR cblas.h PATH_SUFFIXES openblas-pthread x86_64-linux-gnu/openblas-pthread
          openblas)
find_library(OpenBLAS_LIBRARY openblas PATH_SUFFIXES openblas-pthread)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(OpenBLAS
  REQUIRED_VARS OpenBLAS_LIBRARY OpenBLAS_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install libopenblas-pthread-dev")
if(OpenBLAS_FOUND AND NOT TARGET OpenBLAS::OpenBLAS)
  get_filename_component(openblas_dir ${OpenBLAS_LIBRARY} DIRECTORY)
  add_library(OpenBLAS::OpenBLAS UNKNOWN IMPORTED)
  set_target_properties(OpenBLAS::OpenBLAS PROPERTIES
    IMPORTED_LOCATION ${OpenBLAS_LIBRARY}
    INTERFACE_INCLUDE_DIRECTORIES ${OpenBLAS_INCLUDE_DIR}
    INTERFACE_LINK_OPTIONS "-Wl,-rpath,${openblas_dir}")
  set_property(GLOBAL PROPERTY SWITCHYARD_OPENBLAS_DIR ${openblas_dir})
endif()
