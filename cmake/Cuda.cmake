# CUDA for the targets that need it: the compiler (language CUDA) and the imported targets ext::... of its libraries.
# Included by cmake/Packages.cmake where WITH_CUDA is on. The architecture is the preset's, or -DCMAKE_CUDA_ARCHITECTURES.
include(CudaToolkit)
find_cuda_toolkit(CUDA "${TAILOR_CUDA_ENVIRONMENT}")
if(NOT CUDA_ROOT)
  message(FATAL_ERROR "WITH_CUDA needs nvcc, the CUDA runtime, cuBLASLt and NCCL in one place. ${CUDA_LACKS}"
                      "Run launch/setup --build cuda, which fetches them where the system has none (0.72 GB; no GPU is "
                      "needed), or install the CUDA Toolkit and NCCL.")
endif()
message(STATUS "CUDA ${CUDA_VERSION} of ${CUDA_ROOT}")
if(NOT CMAKE_CUDA_COMPILER)
  set(CMAKE_CUDA_COMPILER ${CUDA_NVCC})
endif()
if(NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CURRENT_LIST_DIR}/with-ptxas-report)
  if(CCACHE_PROGRAM)
    list(APPEND CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  endif()
endif()
if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 90a CACHE STRING "GPUs to compile for, as nvcc names them without sm_")
endif()
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
enable_language(CUDA)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3")  # as for C++: NDEBUG is never defined
set(CMAKE_CUDA_STANDARD 20)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know how to ask nvcc for it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
endif()
string(APPEND CMAKE_CUDA_FLAGS " -Xptxas=-v")  # for tools/kernel_resources

# The folder of a library is looked up by glob: a wheel has no link without a version. What is linked keeps its path.
function(add_cuda_library NAME FOLDER)
  cmake_parse_arguments(L "" "" "LIBRARIES;INCLUDES" ${ARGN})
  add_library(ext_${NAME} INTERFACE)
  target_include_directories(ext_${NAME} SYSTEM INTERFACE ${L_INCLUDES})
  foreach(library ${L_LIBRARIES})
    file(GLOB found ${FOLDER}/${library}.so ${FOLDER}/${library}.so.[0-9] ${FOLDER}/${library}.so.[0-9][0-9])
    list(GET found 0 found)
    target_link_libraries(ext_${NAME} INTERFACE ${found})
  endforeach()
  target_link_options(ext_${NAME} INTERFACE -Wl,-rpath,${FOLDER})
endfunction()
add_cuda_library(cudart ${CUDA_LIB} LIBRARIES libcudart INCLUDES ${CUDA_INCLUDES})
add_cuda_library(cublaslt ${CUDA_LIB} LIBRARIES libcublasLt INCLUDES ${CUDA_INCLUDES})
target_link_libraries(ext_cublaslt INTERFACE ext_cudart)
add_cuda_library(nccl ${CUDA_NCCL_LIB} LIBRARIES libnccl INCLUDES ${CUDA_NCCL_INCLUDE})
target_link_libraries(ext_nccl INTERFACE ext_cudart)
