# switchyard_test(<name> SOURCES ... LIBS ... [LABELS ...] [RANKS n...] [TIMEOUT seconds])
#
# One executable, one ctest entry per executable (no discovery: listing tests must never start
# MPI). With RANKS, the executable brings its own main (tests/support/mpi_main.cpp) and runs once
# per rank count, looping over its layouts inside: starting MPI costs half a second.
# Every test has a deadline. Tests are linked with fault injection (core/fault_injection.h).
find_program(SWITCHYARD_MPIRUN NAMES mpirun mpiexec REQUIRED)

# The tests that the preset tsan runs; of the others it builds nothing. The same for the CUDA backend.
add_custom_target(tests_of_threads)
add_custom_target(tests_of_cuda)

function(switchyard_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LIBS;LABELS;RANKS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES} $<TARGET_OBJECTS:switchyard_faults>)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(${name} PRIVATE SWITCHYARD_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  set(processors 1)
  if("threads" IN_LIST ARG_LABELS)
    set(processors 2)
    add_dependencies(tests_of_threads ${name})
  endif()
  if("cuda" IN_LIST ARG_LABELS)
    add_dependencies(tests_of_cuda ${name})
  endif()
  if(ARG_RANKS)
    target_link_libraries(${name} PRIVATE ${ARG_LIBS} switchyard_test_mpi_main Catch2::Catch2)
    if(SWITCHYARD_SANITIZE)
      list(GET ARG_RANKS -1 ARG_RANKS)  # the most ranks are enough there
    endif()
    foreach(ranks ${ARG_RANKS})
      add_test(NAME ${name}_${ranks} COMMAND ${SWITCHYARD_MPIRUN} --bind-to none -n ${ranks}
                                             $<TARGET_FILE:${name}>)
      set_tests_properties(${name}_${ranks} PROPERTIES
        TIMEOUT ${ARG_TIMEOUT} LABELS "mpi;${ARG_LABELS}" PROCESSORS 2
        ENVIRONMENT "${SWITCHYARD_TEST_ENVIRONMENT}")
    endforeach()
  else()
    target_link_libraries(${name} PRIVATE ${ARG_LIBS} Catch2::Catch2WithMain)
    add_test(NAME ${name} COMMAND ${name})
    set(environment ${SWITCHYARD_TEST_ENVIRONMENT})
    list(REMOVE_ITEM environment ${SWITCHYARD_WHOLE_STACKS})
    set_tests_properties(${name} PROPERTIES
      TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}" PROCESSORS ${processors}
      ENVIRONMENT "${environment}")
  endif()
endfunction()

# What mpirun needs as root and with more ranks than cores, and what the sanitizers need to know.
# Tests carry their environment themselves, so that they run alike under `ctest --preset` and by hand.
set(SWITCHYARD_TEST_ENVIRONMENT
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  OMPI_MCA_rmaps_base_oversubscribe=1
  OMP_WAIT_POLICY=passive)
# To tell Open MPI's own leaks from ours. Slow, and needed only where there is MPI.
set(SWITCHYARD_WHOLE_STACKS ASAN_OPTIONS=fast_unwind_on_malloc=0)

if(SWITCHYARD_SANITIZE MATCHES "address")
  list(APPEND SWITCHYARD_TEST_ENVIRONMENT
    LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tools/sanitizers/lsan.supp:print_suppressions=0
    UBSAN_OPTIONS=print_stacktrace=1
    ${SWITCHYARD_WHOLE_STACKS})
elseif(SWITCHYARD_SANITIZE MATCHES "thread" AND SWITCHYARD_CUDA STREQUAL "EMULATED")
  # Each CUDA thread is a thread to the sanitizer. That of clang 14 knows 255, and forgets what it has
  # seen when there are more; that of gcc 12 knows 8000. One thread of OpenMP, which gcc's cannot see.
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    message(FATAL_ERROR "the emulated CUDA backend needs the thread sanitizer of gcc "
                        "(--preset cuda-emulated-tsan): clang's forgets accesses of many threads")
  endif()
  list(APPEND SWITCHYARD_TEST_ENVIRONMENT
    OMP_NUM_THREADS=1
    TSAN_OPTIONS=ignore_noninstrumented_modules=1:suppressions=${PROJECT_SOURCE_DIR}/tools/sanitizers/tsan.supp)
elseif(SWITCHYARD_SANITIZE MATCHES "thread")
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "the thread sanitizer needs clang (--preset tsan): it cannot see how gcc's "
                        "libgomp orders threads, and reports races that are none")
  endif()
  # Archer is the part of libomp that tells the sanitizer about OpenMP's synchronisation.
  get_filename_component(libomp_dir ${OpenMP_omp_LIBRARY} DIRECTORY)
  find_library(SWITCHYARD_ARCHER archer HINTS ${libomp_dir} REQUIRED)
  list(APPEND SWITCHYARD_TEST_ENVIRONMENT
    OMP_TOOL_LIBRARIES=${SWITCHYARD_ARCHER}
    TSAN_OPTIONS=ignore_noninstrumented_modules=1:suppressions=${PROJECT_SOURCE_DIR}/tools/sanitizers/tsan.supp)
endif()
