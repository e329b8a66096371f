# The libraries we stand on. All but libtorch and the Rust text library come from the system's packages;
# launch/setup installs them. Each is an imported target named ext::NAME, linked only where the floor plan says.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(spdlog REQUIRED)
find_package(Protobuf REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
pkg_check_modules(ZMQ REQUIRED IMPORTED_TARGET libzmq)

add_library(ext_expected INTERFACE)  # tl::expected is header-only (libexpected-dev)
find_path(TL_EXPECTED_INCLUDE tl/expected.hpp REQUIRED)
target_include_directories(ext_expected SYSTEM INTERFACE ${TL_EXPECTED_INCLUDE})

# libtorch from the wheel that launch/setup keeps: .deps is a link to that Python environment.
# find_package(Torch) would ask for a CUDA toolkit, so the CPU build imports the two libraries itself.
if(WITH_TORCH)
  if(NOT TAILOR_TORCH_DIR)
    file(GLOB torch_dirs ${CMAKE_SOURCE_DIR}/.deps/lib/python3*/site-packages/torch)
    if(torch_dirs)
      list(GET torch_dirs 0 TAILOR_TORCH_DIR)
    endif()
  endif()
  if(NOT EXISTS "${TAILOR_TORCH_DIR}/lib/libtorch_cpu.so")
    message(FATAL_ERROR "libtorch was not found (looked for .deps/lib/python3*/site-packages/torch). "
                        "Run launch/setup, or pass -DTAILOR_TORCH_DIR=/path/to/torch, or -DWITH_TORCH=OFF.")
  endif()
  add_library(ext_torch INTERFACE)
  target_include_directories(ext_torch SYSTEM INTERFACE
    ${TAILOR_TORCH_DIR}/include ${TAILOR_TORCH_DIR}/include/torch/csrc/api/include)
  target_compile_options(ext_torch INTERFACE -Wno-unused-parameter -Wno-sign-compare)
  target_link_libraries(ext_torch INTERFACE
    ${TAILOR_TORCH_DIR}/lib/libtorch_cpu.so ${TAILOR_TORCH_DIR}/lib/libc10.so)
  file(GLOB nvidia_libs ${TAILOR_TORCH_DIR}/../nvidia/cu13/lib ${TAILOR_TORCH_DIR}/../nvidia/cuda_cupti/lib)
  foreach(dir ${TAILOR_TORCH_DIR}/lib ${nvidia_libs})
    target_link_options(ext_torch INTERFACE -Wl,-rpath,${dir} -Wl,-rpath-link,${dir})
  endforeach()
  target_link_options(ext_torch INTERFACE -Wl,--disable-new-dtags)
endif()

if(BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
