foreach(op linear sampling)
  add_executable(${op}_bench ${op}_bench.cc read_ceiling.cu)
  target_link_libraries(${op}_bench PRIVATE parallax_cuda_kernels parallax_warnings)
endforeach()
