# Language level, warnings and sanitizers shared by every target.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_C_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()

# Everything is compiled position independent: static libraries end in executables (PIE)
# and in the SentencePiece wrapper alike.
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
include_directories(${CMAKE_SOURCE_DIR})

add_library(parallax_warnings INTERFACE)
target_compile_options(parallax_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unused-parameter -Wnon-virtual-dtor -Woverloaded-virtual>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:Clang>>:-Wthread-safety>)

if(PARALLAX_SANITIZE)
  add_compile_options(-fsanitize=${PARALLAX_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${PARALLAX_SANITIZE})
  if(PARALLAX_SANITIZE MATCHES "undefined")
    add_compile_options(-fno-sanitize-recover=undefined)
  endif()
endif()

if(PARALLAX_BUILD_FUZZERS)
  # Coverage feedback from the code under test, not only from the targets' own files.
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
