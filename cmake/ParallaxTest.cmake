# parallax_test(NAME SOURCES a.cc ... LIBS lib ... [LABELS l ...] [TIMEOUT s])
# One GoogleTest executable, registered with CTest under its own name.
function(parallax_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LIBS;LABELS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${ARG_LIBS} GTest::gmock GTest::gtest GTest::gtest_main parallax_warnings)
  add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

# parallax_gpu_test(NAME SOURCES a.cu ... [LIBS lib ...])
# One GoogleTest executable over parallax_cuda_kernels. It is compiled wherever nvcc is, into
# <build>/gpu_tests, and run on a machine with a GPU by tests/kernels/cuda/run_gpu_tests.sh;
# CTest knows it only where there is a GPU, so that no test passes by being skipped.
function(parallax_gpu_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  find_package(GTest REQUIRED)
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/gpu_tests)
  target_link_libraries(${name} PRIVATE
    parallax_cuda_kernels ${ARG_LIBS} GTest::gmock GTest::gtest GTest::gtest_main parallax_warnings)
  if(EXISTS /dev/nvidia0)
    add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS gpu RESOURCE_LOCK gpu)
  endif()
endfunction()
