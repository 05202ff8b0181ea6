# What the CUDA backend needs: nvcc, or, to be emulated, NVIDIA's headers alone.
if(SWITCHYARD_CUDA STREQUAL "EMULATED")
  set(missing_headers)
  foreach(header cuda_runtime.h cublas_v2.h nccl.h)
    find_path(SWITCHYARD_PATH_OF_${header} NAMES ${header}
              HINTS $ENV{CUDA_PATH}/include /usr/local/cuda/include)
    mark_as_advanced(SWITCHYARD_PATH_OF_${header})
    if(SWITCHYARD_PATH_OF_${header})
      list(APPEND SWITCHYARD_CUDA_HEADERS ${SWITCHYARD_PATH_OF_${header}})
    else()
      list(APPEND missing_headers ${header})
    endif()
  endforeach()
  if(missing_headers)
    # Neither a success nor a failure: nothing is built, and the last lines that ctest prints name the
    # one test there is, which was not run.
    list(JOIN missing_headers " " missing_headers)
    set(not_run "NOT RUN: the CUDA toolkit's headers are not installed (no ${missing_headers}; CUDA_PATH says where to look)")
    message(WARNING "${not_run}")
    enable_testing()
    add_test(NAME "${not_run}" COMMAND ${CMAKE_COMMAND} -E false)
    set_tests_properties("${not_run}" PROPERTIES LABELS cuda SKIP_RETURN_CODE 1)
    add_custom_target(tests_of_cuda)
    return()
  endif()
  list(REMOVE_DUPLICATES SWITCHYARD_CUDA_HEADERS)
  add_subdirectory(${PROJECT_SOURCE_DIR}/tests/cuda_emulator)
else()
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100-real)
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
  enable_language(CUDA)
  # CMake 3.25 does not know how nvcc is asked for C++20.
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  endif()
endif()

# switchyard_cuda_sources(<file.cu>...): compiles them by nvcc, or as C++ to be emulated. There words
# of 16 bytes stand for anything, as in CUDA; and even without sanitizers the compiler checks what it
# sees of addresses' alignment and of arrays' bounds, which a GPU does not forgive.
function(switchyard_cuda_sources)
  if(SWITCHYARD_CUDA STREQUAL "EMULATED")
    set(options -xc++ -O2 -g1 -fno-strict-aliasing -Wno-unknown-pragmas -Wno-pedantic
        -Wno-unused-const-variable)  # of launch bounds
    if(NOT SWITCHYARD_SANITIZE)
      list(APPEND options -fsanitize=alignment,bounds -fsanitize-undefined-trap-on-error)
    endif()
    set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${options}")
  else()
    set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS
      "--expt-relaxed-constexpr;-DFMT_USE_CONSTEXPR=1;-Xptxas=-v,--warn-on-spills;-Werror=all-warnings")
  endif()
endfunction()
