# SPDX-License-Identifier: Apache-2.0
# `make install`: the command, both libraries, find_package(stasis COMPONENTS work stasis), pkg-config files, the manual.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/stasis)

# One export set for each component, so that `work` asks for no library but the standard one.
install(TARGETS stasis_work EXPORT stasis-work ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS stasis_lib EXPORT stasis-stasis ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(component work stasis)
  install(EXPORT stasis-${component} NAMESPACE stasis:: FILE stasis-${component}-targets.cmake DESTINATION ${package_dir})
endforeach()
install(DIRECTORY include/stasis DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
if(TARGET stasis)
  install(TARGETS stasis RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(FILES doc/stasis.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)

configure_package_config_file(cmake/stasis-config.cmake.in stasis-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(stasis-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/stasis-config.cmake ${CMAKE_BINARY_DIR}/stasis-config-version.cmake
        DESTINATION ${package_dir})
# The .pc files find their prefix from where they lie, as `cmake --install --prefix` may choose another one.
file(RELATIVE_PATH STASIS_PC_PREFIX /x/${CMAKE_INSTALL_LIBDIR}/pkgconfig /x)
foreach(name stasis stasis-work)
  configure_file(cmake/${name}.pc.in ${name}.pc @ONLY)
  install(FILES ${CMAKE_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
