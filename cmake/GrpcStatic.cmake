# parallax::grpc: gRPC, reflection and protobuf, linked statically with hidden symbols.
#
# Why static: Debian's libsentencepiece.so exports a bundled protobuf 3.14. Beside the
# shared libprotobuf 3.21 the two register the same symbols and the process aborts. With
# protobuf inside our executables and --exclude-libs,ALL neither side sees the other.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(absl REQUIRED)
pkg_check_modules(GRPC REQUIRED grpc++)
find_program(PROTOC_PROGRAM protoc REQUIRED)
find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

add_library(parallax_grpc INTERFACE)
add_library(parallax::grpc ALIAS parallax_grpc)
set(parallax_grpc_archives)
foreach(lib grpc++ grpc address_sorting upb gpr protobuf)
  find_library(PARALLAX_LIB_${lib} NAMES lib${lib}.a REQUIRED)
  list(APPEND parallax_grpc_archives ${PARALLAX_LIB_${lib}})
endforeach()
find_library(PARALLAX_LIB_grpc_reflection NAMES libgrpc++_reflection.a REQUIRED)
set(parallax_hidden_archives ALL)
if(PARALLAX_BUILD_FUZZERS)
  # clang's sanitizer runtime is an archive too, and its malloc must be seen by libstdc++.
  set(parallax_hidden_archives
    libgrpc++.a:libgrpc++_reflection.a:libgrpc.a:libaddress_sorting.a:libupb.a:libgpr.a:libprotobuf.a)
endif()
target_link_options(parallax_grpc INTERFACE "LINKER:--exclude-libs,${parallax_hidden_archives}")
target_link_libraries(parallax_grpc INTERFACE
  -Wl,--whole-archive ${PARALLAX_LIB_grpc_reflection} -Wl,--no-whole-archive
  ${parallax_grpc_archives}
  re2 cares z ssl crypto
  absl::status absl::statusor absl::synchronization absl::strings absl::str_format absl::cord
  absl::flat_hash_map absl::flat_hash_set absl::inlined_vector absl::random_random
  absl::bind_front absl::hash absl::time absl::optional absl::variant absl::memory
  Threads::Threads dl)
