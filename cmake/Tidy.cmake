# Two tests of the sources themselves: tools/tidy, and `headers_alone`, which compiles every torch-free header by itself.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND)
  add_test(NAME tidy COMMAND ${Python3_EXECUTABLE} ${CMAKE_SOURCE_DIR}/tools/tidy)
  set_tests_properties(tidy PROPERTIES LABELS unit TIMEOUT 60)
endif()

file(GLOB_RECURSE headers RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS
  ${CMAKE_SOURCE_DIR}/base/*.h ${CMAKE_SOURCE_DIR}/tie/*.h ${CMAKE_SOURCE_DIR}/kv/*.h ${CMAKE_SOURCE_DIR}/text/*.h
  ${CMAKE_SOURCE_DIR}/comm/*.h ${CMAKE_SOURCE_DIR}/parallel/*.h ${CMAKE_SOURCE_DIR}/coordinator/*.h
  ${CMAKE_SOURCE_DIR}/worker/*.h ${CMAKE_SOURCE_DIR}/sim/*.h ${CMAKE_SOURCE_DIR}/bench/*.h ${CMAKE_SOURCE_DIR}/launch/*.h)
foreach(header ${headers})
  file(STRINGS ${CMAKE_SOURCE_DIR}/${header} needs_torch REGEX "#include .(torch|ATen|c10|[^\"]*_torch\\.h)" LIMIT_COUNT 1)
  if(needs_torch OR header MATCHES "^text/rust/|_torch\\.h$")
    continue()
  endif()
  set(source ${CMAKE_BINARY_DIR}/headers_alone/${header}.cc)
  file(CONFIGURE OUTPUT ${source} CONTENT "#include \"${header}\"\n#include \"${header}\"  // twice: guarded\n" @ONLY)
  list(APPEND header_sources ${source})
endforeach()
add_library(headers_alone OBJECT EXCLUDE_FROM_ALL ${header_sources})
target_link_libraries(headers_alone PRIVATE tailor_options ext_expected spdlog::spdlog nlohmann_json::nlohmann_json
  CLI11::CLI11)
target_compile_options(headers_alone PRIVATE -O0)
if(TARGET tailor_proto)
  target_link_libraries(headers_alone PRIVATE tailor_proto)
endif()
add_test(NAME headers_alone COMMAND ${CMAKE_COMMAND} --build ${CMAKE_BINARY_DIR} --target headers_alone)
set_tests_properties(headers_alone PROPERTIES LABELS unit TIMEOUT 300)
