# Finds NCCL, NVIDIA's library of collectives. Defines NCCL::NCCL, and NCCL::headers without the
# library, which is all that an emulated build needs.
find_path(NCCL_INCLUDE_DIR nccl.h HINTS $ENV{NCCL_HOME}/include $ENV{CUDA_PATH}/include /usr/local/cuda/include)
find_library(NCCL_LIBRARY nccl HINTS $ENV{NCCL_HOME}/lib $ENV{CUDA_PATH}/lib /usr/local/cuda/lib)
if(NCCL_INCLUDE_DIR)
  file(STRINGS ${NCCL_INCLUDE_DIR}/nccl.h lines REGEX "#define NCCL_(MAJOR|MINOR|PATCH) ")
  list(TRANSFORM lines REPLACE "[^0-9]" "")
  list(JOIN lines "." NCCL_VERSION)
endif()
if(NCCL_FIND_COMPONENTS STREQUAL "headers")
  set(required NCCL_INCLUDE_DIR)
else()
  set(required NCCL_LIBRARY NCCL_INCLUDE_DIR)
endif()
set(NCCL_headers_FOUND ${NCCL_INCLUDE_DIR})
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(NCCL
  REQUIRED_VARS ${required}
  VERSION_VAR NCCL_VERSION
  REASON_FAILURE_MESSAGE "install libnccl-dev, or set NCCL_HOME")
if(NCCL_FOUND AND NOT TARGET NCCL::headers)
  add_library(NCCL::headers INTERFACE IMPORTED)
  target_include_directories(NCCL::headers INTERFACE ${NCCL_INCLUDE_DIR})
endif()
if(NCCL_FOUND AND NCCL_LIBRARY AND NOT TARGET NCCL::NCCL)
  add_library(NCCL::NCCL UNKNOWN IMPORTED)
  set_target_properties(NCCL::NCCL PROPERTIES
    IMPORTED_LOCATION ${NCCL_LIBRARY}
    INTERFACE_LINK_LIBRARIES NCCL::headers)
endif()
