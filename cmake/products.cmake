# SPDX-License-Identifier: Apache-2.0
# What is built from the layers: stasis::work (the primitives, standard library only), stasis::stasis (everything), the command.

# The primitives need no library but the standard one, so they are made of these files and no others.
file(GLOB work_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/work/*.cc)
list(FILTER work_sources EXCLUDE REGEX "_test\\.cc$")
set(work_parts ${work_sources} ${CMAKE_SOURCE_DIR}/src/base/error.cc)
if(EXISTS ${CMAKE_SOURCE_DIR}/src/image/objhash.cc)
  list(APPEND work_parts ${CMAKE_SOURCE_DIR}/src/image/objhash.cc)
endif()
add_library(stasis_work STATIC ${work_parts})
set_target_properties(stasis_work PROPERTIES OUTPUT_NAME stasis-work EXPORT_NAME work)
target_include_directories(stasis_work PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>
                                       PRIVATE ${CMAKE_SOURCE_DIR}/src)
target_compile_features(stasis_work PUBLIC cxx_std_23)
target_link_libraries(stasis_work PUBLIC Threads::Threads PRIVATE $<BUILD_INTERFACE:stasis_options>)
add_library(stasis::work ALIAS stasis_work)

set(objects "")
foreach(layer ${STASIS_LAYERS})
  if(NOT layer STREQUAL "cli")
    list(APPEND objects $<TARGET_OBJECTS:layer_${layer}>)
  endif()
endforeach()
add_library(stasis_lib STATIC ${objects})
set_target_properties(stasis_lib PROPERTIES OUTPUT_NAME stasis EXPORT_NAME stasis)
target_include_directories(stasis_lib PUBLIC $<BUILD_INTERFACE:${CMAKE_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>)
target_compile_features(stasis_lib PUBLIC cxx_std_23)
target_link_libraries(stasis_lib PUBLIC Threads::Threads
                                 PRIVATE $<BUILD_INTERFACE:stasis_options> fmt::fmt PkgConfig::XXHASH PkgConfig::LZ4
                                         PkgConfig::ZSTD $<BUILD_INTERFACE:nlohmann_json::nlohmann_json>)
add_library(stasis::stasis ALIAS stasis_lib)

if(EXISTS ${CMAKE_SOURCE_DIR}/src/cli/main.cc)
  add_executable(stasis ${CMAKE_SOURCE_DIR}/src/cli/main.cc)
  target_link_libraries(stasis PRIVATE layer_cli stasis_lib)
  set_target_properties(stasis PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
  if(STASIS_STATIC_DEPENDENCIES)
    include(cmake/static.cmake)
    stasis_link_statically(stasis)
  endif()
endif()
