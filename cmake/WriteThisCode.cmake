# cmake -D source=... -D template=... -D output=... -D version=... -D compiler=... -D build=...
#       -P WriteThisCode.cmake
# Writes the source file that says which program this is (src/cli/this_code.h), if it would change.
# A script, because the revision is known only when something is built, not when CMake configures.
set(revision unknown)
find_program(git git)
# The revision of this very source tree: an archive unpacked inside another repository has none.
if(git AND EXISTS ${source}/.git)
  execute_process(
    COMMAND ${git} --no-optional-locks -C ${source} describe --always --dirty --abbrev=40 --exclude=*
    OUTPUT_VARIABLE found RESULT_VARIABLE failure ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(NOT failure AND found MATCHES "^[0-9a-f]+(-dirty)?$")
    set(revision ${found})
  endif()
endif()
# As long and as plain as the parser of manifests allows (checkpoint/manifest_parser.cpp).
foreach(field version compiler build)
  string(REGEX REPLACE "[^ -~]+" " " ${field} "${${field}}")
  string(REGEX REPLACE " +" " " ${field} "${${field}}")
  string(STRIP "${${field}}" ${field})
endforeach()
string(SUBSTRING "${version}" 0 256 version)
string(SUBSTRING "${compiler}" 0 256 compiler)
string(SUBSTRING "${build}" 0 1024 build)
configure_file(${template} ${output} @ONLY)
