# Compiler flags of the whole project, on one INTERFACE target that every library links.
add_library(switchyard_options INTERFACE)
target_compile_features(switchyard_options INTERFACE cxx_std_20)
target_include_directories(switchyard_options INTERFACE ${PROJECT_SOURCE_DIR}/src)
target_compile_options(switchyard_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow;-Wconversion;-Wno-sign-conversion;-Werror>"
  "$<$<COMPILE_LANGUAGE:CXX>:-march=${SWITCHYARD_ARCH};-fno-math-errno>")
# g++ 12 sees overlapping and overflowing copies in std::string and fmt where there are none
# (GCC bugs 105651 and 105329).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(switchyard_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict;-Wno-stringop-overflow;-Wno-array-bounds>")
endif()
# g++ 12 with AVX-512 stores constants of 32 or 64 bytes that begin with equal words and end in zeros,
# such as std::vector<int64_t>{2, 2, 2, 0}, as {2, 2, 2, 2}: a wrong broadcast, made when it moves
# blocks of memory in pieces wider than these (tests/core/test_constants.cpp).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12
   AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_compile_options(switchyard_options INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:-mmove-max=128;-mstore-max=128>")
endif()
if(SWITCHYARD_SANITIZE)
  target_compile_options(switchyard_options INTERFACE
    -fsanitize=${SWITCHYARD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(switchyard_options INTERFACE -fsanitize=${SWITCHYARD_SANITIZE})
  # These checks cost a third of the time to compile. The first two find what the address sanitizer
  # finds too; nothing here is virtual in a way that casts could get wrong; x86 reads misaligned words.
  target_compile_options(switchyard_options INTERFACE
    -fno-sanitize=null,object-size,vptr,alignment)
endif()

# switchyard_library(<folder> SOURCES ... LIBS ...): the static library of one folder of src/.
function(switchyard_library folder)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(switchyard_${folder} STATIC ${ARG_SOURCES})
  target_link_libraries(switchyard_${folder} PUBLIC switchyard_options ${ARG_LIBS})
endfunction()
