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
  target_compile_options(hostler_flags INTERFACE -fsanitize=${HOSTLER_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(hostler_flags INTERFACE -fsanitize=${HOSTLER_SANITIZE})
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
  include(GoogleTest)
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 300 ${ARG_PROPERTIES})
endfunction()
