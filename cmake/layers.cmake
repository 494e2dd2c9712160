# SPDX-License-Identifier: Apache-2.0
# stasis_layer(name [LIBS ...]): the folder src/<name> as an object library `layer_<name>` that sees every layer declared
# before it, and its *_test.cc files as one test program `unit_<name>` (see tests.cmake).
set(STASIS_LAYERS "")
set(STASIS_LAYER_LIBS "")

add_library(stasis_options INTERFACE)
target_include_directories(stasis_options INTERFACE ${CMAKE_SOURCE_DIR}/include ${CMAKE_SOURCE_DIR}/src)
target_compile_options(stasis_options INTERFACE -Wall -Wextra -Wconversion -Wshadow -Wno-missing-field-initializers -fmax-errors=20
                                                $<$<BOOL:${STASIS_WERROR}>:-Werror>)
target_compile_definitions(stasis_options INTERFACE STASIS_VERSION="${PROJECT_VERSION}")

function(stasis_layer name)
  cmake_parse_arguments(ARG "" "" "LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cc ${CMAKE_SOURCE_DIR}/src/${name}/*.S)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$|/main\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  if(NOT sources)
    set(sources ${CMAKE_SOURCE_DIR}/cmake/empty.cc)
  endif()
  add_library(layer_${name} OBJECT ${sources})
  list(APPEND STASIS_LAYER_LIBS ${ARG_LIBS})
  target_link_libraries(layer_${name} PUBLIC stasis_options ${STASIS_LAYER_LIBS})
  set_property(GLOBAL PROPERTY STASIS_TESTS_${name} "${tests}")
  set(STASIS_LAYERS ${STASIS_LAYERS} ${name} PARENT_SCOPE)
  set(STASIS_LAYER_LIBS ${STASIS_LAYER_LIBS} PARENT_SCOPE)
endfunction()
