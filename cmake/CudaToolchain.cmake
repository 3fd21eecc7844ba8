# Whether CUDA code is compiled, and how. Sets PARALLAX_CUDA for the rest of the build.
#
# Hopper's own code (wgmma, TMA, clusters) is compiled for sm_90a; everything else in
# kernels/cuda also for sm_80, whose machine code and PTX serve Ampere and later.
set(PARALLAX_CUDA OFF)
if(PARALLAX_ENABLE_CUDA STREQUAL "OFF")
  return()
endif()

set(CMAKE_CUDA_ARCHITECTURES "80;90a" CACHE STRING "GPU architectures to compile for")
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
if(NOT CMAKE_CUDA_COMPILER)
  find_program(CMAKE_CUDA_COMPILER nvcc HINTS /usr/local/cuda/bin)
endif()
if(CMAKE_CUDA_COMPILER)
  set(PARALLAX_CUDA ON)
elseif(PARALLAX_ENABLE_CUDA STREQUAL "AUTO")
  message(STATUS "nvcc not found: CUDA code is not compiled")
  unset(CMAKE_CUDA_COMPILER CACHE)
  return()
else()
  message(FATAL_ERROR "PARALLAX_ENABLE_CUDA=ON but nvcc was not found")
endif()

enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
  # Debian 12's CMake does not know that this nvcc speaks C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
find_package(CUDAToolkit REQUIRED)
if(CCACHE_PROGRAM)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
