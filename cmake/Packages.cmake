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
  if(WITH_CUDA)  # registers its kernels when loaded: nothing names a symbol of it, so the linker must be told to keep it
    if(NOT EXISTS "${TAILOR_TORCH_DIR}/lib/libtorch_cuda.so")
      message(FATAL_ERROR "WITH_CUDA needs libtorch_cuda.so, which ${TAILOR_TORCH_DIR}/lib lacks: this torch was built for "
                          "CPUs only. Run launch/setup --build cuda.")
    endif()
    target_link_libraries(ext_torch INTERFACE -Wl,--push-state,--no-as-needed
      ${TAILOR_TORCH_DIR}/lib/libtorch_cuda.so ${TAILOR_TORCH_DIR}/lib/libc10_cuda.so -Wl,--pop-state)
  endif()
  file(GLOB nvidia_libs ${TAILOR_TORCH_DIR}/../nvidia/*/lib)
  foreach(dir ${TAILOR_TORCH_DIR}/lib ${nvidia_libs})
    target_link_options(ext_torch INTERFACE -Wl,-rpath,${dir} -Wl,-rpath-link,${dir})
  endforeach()
  target_link_options(ext_torch INTERFACE -Wl,--disable-new-dtags)
endif()

# NCCL and the CUDA runtime: from a system CUDA Toolkit, else from the wheels of the Python environment. Found or not, the
# headers decide alone: no GPU is needed to build. WITH_CUDA makes them required.
file(GLOB cuda_wheel ${CMAKE_SOURCE_DIR}/.deps/lib/python3*/site-packages/nvidia/cu13)
file(GLOB nccl_wheel ${CMAKE_SOURCE_DIR}/.deps/lib/python3*/site-packages/nvidia/nccl)
if(TAILOR_TORCH_DIR)
  list(APPEND cuda_wheel ${TAILOR_TORCH_DIR}/../nvidia/cu13)
  list(APPEND nccl_wheel ${TAILOR_TORCH_DIR}/../nvidia/nccl)
endif()
find_path(CUDART_INCLUDE cuda_runtime_api.h PATHS /usr/local/cuda/include HINTS ${cuda_wheel} PATH_SUFFIXES include)
find_path(CUDA_CRT_INCLUDE crt/host_defines.h  # a wheel of its own: nvidia-cuda-crt
  PATHS /usr/local/cuda/include HINTS ${CUDART_INCLUDE} ${cuda_wheel} PATH_SUFFIXES include)
find_path(CUDA_CCCL_INCLUDE nv/target        # and nvidia-cuda-cccl
  PATHS /usr/local/cuda/include HINTS ${CUDART_INCLUDE} ${cuda_wheel} PATH_SUFFIXES include include/cccl cccl)
find_library(CUDART_LIBRARY NAMES cudart libcudart.so.13 PATHS /usr/local/cuda/lib64 HINTS ${cuda_wheel} PATH_SUFFIXES lib)
find_path(NCCL_INCLUDE nccl.h HINTS ${nccl_wheel} PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${nccl_wheel} PATH_SUFFIXES lib)
mark_as_advanced(CUDART_INCLUDE CUDA_CRT_INCLUDE CUDA_CCCL_INCLUDE CUDART_LIBRARY NCCL_INCLUDE NCCL_LIBRARY)
if(CUDART_INCLUDE AND CUDA_CRT_INCLUDE AND CUDA_CCCL_INCLUDE AND CUDART_LIBRARY AND NCCL_INCLUDE AND NCCL_LIBRARY)
  add_library(ext_nccl INTERFACE)
  target_include_directories(ext_nccl SYSTEM INTERFACE
    ${NCCL_INCLUDE} ${CUDART_INCLUDE} ${CUDA_CRT_INCLUDE} ${CUDA_CCCL_INCLUDE})
  target_link_libraries(ext_nccl INTERFACE ${NCCL_LIBRARY} ${CUDART_LIBRARY})
  foreach(library ${NCCL_LIBRARY} ${CUDART_LIBRARY})
    get_filename_component(dir ${library} DIRECTORY)
    target_link_options(ext_nccl INTERFACE -Wl,-rpath,${dir})
  endforeach()
elseif(WITH_CUDA)
  message(FATAL_ERROR "WITH_CUDA needs cuda_runtime_api.h, crt/host_defines.h, nv/target, libcudart, nccl.h, libnccl; "
                      "found: ${CUDART_INCLUDE}, ${CUDA_CRT_INCLUDE}, ${CUDA_CCCL_INCLUDE}, ${CUDART_LIBRARY}, ${NCCL_INCLUDE}, ${NCCL_LIBRARY}. Run launch/setup on the "
                      "machine with the GPU, or install the CUDA Toolkit and NCCL.")
endif()

find_package(benchmark QUIET)  # for coordinator_bench alone: without it that target is not there

if(BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
