# Settles HOSTLER_CUDA: on, emulated or OFF.

if(HOSTLER_CUDA STREQUAL "on")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      # And PTX for what comes later.
      set(CMAKE_CUDA_ARCHITECTURES "80-real;89-real;90-real;90-virtual")
    endif()
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    enable_language(CUDA)
    # CMake 3.25 does not know how to ask nvcc for what the C++ standard here implies.
    if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    endif()
    find_package(CUDAToolkit 12 REQUIRED)
  else()
    message(WARNING "no nvcc: HOSTLER_CUDA is OFF")
    set(HOSTLER_CUDA OFF)
  endif()
elseif(HOSTLER_CUDA AND NOT HOSTLER_CUDA STREQUAL "emulated")
  message(FATAL_ERROR "HOSTLER_CUDA is \"${HOSTLER_CUDA}\", must be on, emulated or OFF")
endif()
