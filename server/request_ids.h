// Ids and seeds for requests that bring none.
//
// Thread safety: safe; each call reads the kernel's random numbers.
#ifndef PARALLAX_SERVER_REQUEST_IDS_H_
#define PARALLAX_SERVER_REQUEST_IDS_H_

#include <cstdint>
#include <string>

namespace parallax::server {

struct RequestIdentity {
  std::string id;  // 32 hexadecimal digits: 128 random bits, never met twice
  uint64_t seed = 0;
};

RequestIdentity DrawRequestIdentity();

}  // namespace parallax::server

#endif  // PARALLAX_SERVER_REQUEST_IDS_H_
