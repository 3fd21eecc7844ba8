#include "server/request_ids.h"

#include <sys/random.h>

#include <cstdlib>

namespace parallax::server {
namespace {

void AppendHex(uint64_t bits, std::string* out) {
  for (int shift = 60; shift >= 0; shift -= 4) *out += "0123456789abcdef"[(bits >> shift) & 15];
}

}  // namespace

RequestIdentity DrawRequestIdentity() {
  uint64_t bits[3];
  // Up to 256 bytes are never interrupted or cut short once the kernel's pool is ready.
  if (getrandom(bits, sizeof(bits), 0) != sizeof(bits)) std::abort();
  RequestIdentity identity;
  identity.id.reserve(32);
  AppendHex(bits[0], &identity.id);
  AppendHex(bits[1], &identity.id);
  identity.seed = bits[2];
  return identity;
}

}  // namespace parallax::server
