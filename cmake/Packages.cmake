# The libraries we stand on. All but libtorch and the Rust text library come from the system's packages;
# launch/setup installs them. Each is an imported target named ext::NAME, linked only where the floor plan says.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(spdlog REQUIRED)
find_package(Protobuf REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
set_property(TARGET MPI::MPI_C APPEND PROPERTY INTERFACE_COMPILE_DEFINITIONS
  OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)  # the C interface only, also from C++
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(ZLIB REQUIRED)
pkg_check_modules(ZMQ REQUIRED IMPORTED_TARGET libzmq)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

add_library(ext_expected INTERFACE)  # tl::expected is header-only (libexpected-dev)
find_path(TL_EXPECTED_INCLUDE tl/expected.hpp REQUIRED)
target_include_directories(ext_expected SYSTEM INTERFACE ${TL_EXPECTED_INCLUDE})

add_library(ext_boost INTERFACE)  # Boost.Math is header-only (libboost-dev)
find_path(BOOST_INCLUDE boost/math/distributions/students_t.hpp REQUIRED)
target_include_directories(ext_boost SYSTEM INTERFACE ${BOOST_INCLUDE})

add_library(ext_boost_context INTERFACE)  # libboost-context-dev: fibers, for GPU kernels without a GPU
find_library(BOOST_CONTEXT_LIBRARY boost_context REQUIRED)
target_link_libraries(ext_boost_context INTERFACE ext_boost ${BOOST_CONTEXT_LIBRARY})

# libtorch from the wheel that launch/setup keeps: .deps is a link to a Python environment with its CPU half, in preset
# cuda-torch another link to one with all of it. find_package(Torch) would ask for a CUDA toolkit, so the libraries are
# imported here.
if(WITH_TORCH)
  if(NOT TAILOR_TORCH_DIR)
    file(GLOB torch_dirs ${TAILOR_TORCH_ENVIRONMENT}/lib/python3*/site-packages/torch)
    if(torch_dirs)
      list(GET torch_dirs 0 TAILOR_TORCH_DIR)
    endif()
  endif()
  if(NOT EXISTS "${TAILOR_TORCH_DIR}/lib/libtorch_cpu.so")
    message(FATAL_ERROR "libtorch was not found (looked for ${TAILOR_TORCH_ENVIRONMENT}/lib/python3*/site-packages/torch). "
                        "Run launch/setup, or pass -DTAILOR_TORCH_DIR=/path/to/torch, or -DWITH_TORCH=OFF.")
  endif()
  add_library(ext_torch INTERFACE)
  target_include_directories(ext_torch SYSTEM INTERFACE
    ${TAILOR_TORCH_DIR}/include ${TAILOR_TORCH_DIR}/include/torch/csrc/api/include)
  target_compile_options(ext_torch INTERFACE -Wno-unused-parameter -Wno-sign-compare)
  target_link_libraries(ext_torch INTERFACE
    ${TAILOR_TORCH_DIR}/lib/libtorch_cpu.so ${TAILOR_TORCH_DIR}/lib/libc10.so)
  if(WITH_TORCH STREQUAL "CUDA")  # registers its kernels when loaded: nothing names a symbol of it, so the linker must be
    target_link_libraries(ext_torch INTERFACE -Wl,--push-state,--no-as-needed  # told to keep it
      ${TAILOR_TORCH_DIR}/lib/libtorch_cuda.so ${TAILOR_TORCH_DIR}/lib/libc10_cuda.so -Wl,--pop-state)
  endif()
  file(GLOB nvidia_libs ${TAILOR_TORCH_DIR}/../nvidia/*/lib)
  foreach(dir ${TAILOR_TORCH_DIR}/lib ${nvidia_libs})
    target_link_options(ext_torch INTERFACE -Wl,-rpath,${dir} -Wl,-rpath-link,${dir})
  endforeach()
  target_link_options(ext_torch INTERFACE -Wl,--disable-new-dtags)
endif()

if(WITH_CUDA)
  include(Cuda)
endif()

find_package(benchmark QUIET)  # for coordinator_bench alone: without it that target is not there

if(BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
