# Flags and target helpers that every folder uses.

add_library(hostler_flags INTERFACE)
target_include_directories(hostler_flags INTERFACE ${CMAKE_SOURCE_DIR})
set(cxx $<COMPILE_LANGUAGE:CXX>)
target_compile_options(hostler_flags INTERFACE
  "$<${cxx}:-Wall;-Wextra;-Werror=return-type;-Wno-sign-compare;-fno-math-errno>"
  "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-sign-compare>")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC 12 sees overlaps in std::string that are not there (GCC bug 105651).
  target_compile_options(hostler_flags INTERFACE $<${cxx}:-Wno-restrict>)
endif()
if(HOSTLER_SANITIZE)
  # What is found ends the program. Without the checks for null pointers, which end in a
  # fault anyway, and for an object's type, which take a third of the time to compile.
  target_compile_options(hostler_flags INTERFACE
    -fsanitize=${HOSTLER_SANITIZE} -fno-sanitize=null,vptr -fno-sanitize-recover=all
    -fno-omit-frame-pointer)
  target_link_options(hostler_flags INTERFACE -fsanitize=${HOSTLER_SANITIZE})
endif()

# Whether there are kernels for x86's wider vectors.
set(HOSTLER_X86 OFF)
if(HOSTLER_ISA_KERNELS AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(HOSTLER_X86 ON)
endif()

# Where tests find the GGUF models that tests/fixtures/ writes.
set(HOSTLER_GGUF_MODELS ${CMAKE_BINARY_DIR}/gguf_models)

# hostler_library(NAME SOURCES a.cc b.cc DEPS lib...)
function(hostler_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC hostler_flags ${ARG_DEPS})
endfunction()

# hostler_test(NAME SOURCES a_test.cc DEPS lib... [PROPERTIES name value...]): one
# test binary for a folder.
function(hostler_test name)
  if(NOT HOSTLER_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PROPERTIES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE hostler_flags ${ARG_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE HOSTLER_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(HOSTLER_SANITIZE MATCHES "undefined")
    # The tests' own code: AddressSanitizer alone, which compiles twice as fast.
    target_compile_options(${name} PRIVATE -fno-sanitize=undefined)
  endif()
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300 ${ARG_PROPERTIES})
endfunction()
