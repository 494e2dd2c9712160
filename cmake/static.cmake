# SPDX-License-Identifier: Apache-2.0
# stasis_link_statically(target): what is installed as an archive is linked as one, the compiler's libraries too; of the
# shared libraries that its parts name only those remain that are still needed. Nothing missing is an error.
function(stasis_link_statically target)
  if(CMAKE_CXX_FLAGS MATCHES "-fsanitize")
    return() # has shared libraries of its own
  endif()
  try_compile(
    STASIS_FMT_INSIDE ${CMAKE_BINARY_DIR}/try_fmt
    SOURCES ${CMAKE_SOURCE_DIR}/cmake/static/fmt.cc
    COMPILE_DEFINITIONS -DSTASIS_TRY_FMT
    CXX_STANDARD 23
    CXX_STANDARD_REQUIRED ON)
  if(NOT STASIS_FMT_INSIDE)
    message(STATUS "fmt is linked as a shared library")
    return() # it needs the shared standard library
  endif()
  target_sources(${target} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/static/fmt.cc)
  target_link_options(${target} PRIVATE -static-libstdc++ -static-libgcc -Wl,--as-needed)
  foreach(library xxhash lz4 zstd)
    find_library(STASIS_ARCHIVE_${library} lib${library}.a)
    mark_as_advanced(STASIS_ARCHIVE_${library})
    if(STASIS_ARCHIVE_${library})
      # Behind the objects that use it and before the shared library of the same name.
      target_link_libraries(${target} PRIVATE ${STASIS_ARCHIVE_${library}})
    endif()
  endforeach()
endfunction()
