#include "kernels/cuda/parallax_attention/decode_form.h"

#include <algorithm>

namespace parallax::kernels::cuda {
namespace {

constexpr int kWholeRing = 1 << 20;  // more than there is

// The SMs that work is dealt out to: a multiple of a large power of two (on an H200 128, not 132),
// so that batches of powers of two fall into whole units: the memory is as busy, and merges cost
// more than four SMs.
int RoundedSms(const DeviceProperties& device) {
  return device.num_sms < 16 ? device.num_sms : device.num_sms / 16 * 16;
}

// Few units must be shared by many CTAs, and merging through distributed shared memory costs a
// fifth of merging through global memory. Clusters of 8 have an SM for each CTA; the SMs lie in
// groups with some left over, and one cluster fewer than num_sms / 8 runs at once.
DecodeForm ClustersOf8(const DeviceProperties& device) {
  return {8, std::max(1, device.num_sms / 8 - 1), 1, kWholeRing};
}

// Pages of 64 dims take a CTA of a cluster, by two and with a full ring of them on their way, about
// as long as the memory. They take a single CTA longer, and where units suffice two an SM keep the
// memory busy; where two of fewer find room, the GPU puts two on one SM and leaves others idle.
DecodeForm FormOf64Dims(const DeviceProperties& device, int units) {
  const int sms = RoundedSms(device);
  const int clusters_of_4 = 2 * ClustersOf8(device).num_clusters;
  if (units <= clusters_of_4) return {4, clusters_of_4, 1, kWholeRing};
  if (units <= sms / 2) return {2, sms / 2, 1, kWholeRing};
  if (units <= sms) return {1, sms, 1, 96 * 1024};
  return {1, 2 * sms, 2, 48 * 1024};
}

// A CTA's ring holds what its SM's share of the memory's bandwidth needs on the way. More is worse:
// the memory's queues grow, and some SMs get a quarter more from them than others.
DecodeForm FormOf128Dims(const DeviceProperties& device, int units) {
  const int sms = RoundedSms(device);
  if (units <= sms / 4) return {4, sms / 4, 2, 64 * 1024};
  if (units <= sms / 2) {
    // Where many clusters have no unit, the others' share is larger.
    const bool nearly_all_have_one = units > sms * 3 / 8;
    return {2, sms / 2, 1, (nearly_all_have_one ? 80 : 96) * 1024};
  }
  // One on an SM: where two find room, the GPU puts two on one SM and leaves others idle.
  if (units <= sms) return {1, sms, 1, 96 * 1024};
  return {1, 2 * sms, 2, 64 * 1024};
}

DecodeForm FormOfOneTile(const DeviceProperties& device, int units, int head_dim) {
  const DecodeForm clusters_of_8 = ClustersOf8(device);
  if (units <= clusters_of_8.num_clusters) return clusters_of_8;
  return head_dim == 64 ? FormOf64Dims(device, units) : FormOf128Dims(device, units);
}

// The state of two tiles needs the registers of a whole SM.
DecodeForm FormOfTwoTiles(const DeviceProperties& device, int units) {
  if (units <= RoundedSms(device) / 2) return ClustersOf8(device);
  return {1, RoundedSms(device), 1, kWholeRing};
}

}  // namespace

SequenceUnits::SequenceUnits(int rows, int num_kv_heads)
    : tiles(rows <= 8 ? 1 : 2),
      row_blocks((rows + tiles * 8 - 1) / (tiles * 8)),
      count(num_kv_heads * row_blocks) {}

DecodeForm DecodeFormOf(const DeviceProperties& device, int units, int tiles, int head_dim) {
  return tiles == 1 ? FormOfOneTile(device, units, head_dim) : FormOfTwoTiles(device, units);
}

// All numbers are as measured (bench/kernels/cuda/LOG-decode.md, versions 10 and 11).
CutRule CutRuleOf(const DecodeForm& form, int units, int tiles, int head_dim) {
  if (form.cluster_size == 1) {
    // Where a CTA has several units, as of 64 sequences of 1664 to 2300 keys on 256 CTAs.
    return {.cut_cost = units > form.num_clusters ? 7 : 3, .whole_round = CutRule::kCutRound};
  }
  const auto share = [](int part, int whole) { return CutRule::kCutRound * part / whole; };
  const CutRule of_clusters = {.cut_cost = 7, .whole_round = share(2, 3)};
  if (tiles > 1 || form.ctas_per_sm > 1) return of_clusters;
  const int reading = units * form.cluster_size;
  if (head_dim == 64) {
    // Half of the CTAs read pages of 64 dims nearly as fast as all do. In clusters of 2 they had
    // better be more: 32 units of 8192 keys took 4 % longer whole where a step starts them early.
    const int least = form.cluster_size > 2 ? share(7, 12) : share(2, 3);
    return {.cut_cost = 12, .whole_round = std::max(least, share(reading, form.ctas()))};
  }
  if (form.cluster_size < kMostClusterSize) return of_clusters;
  // An estimate: a GPC has room for two clusters of 8, and one GPC may be smaller.
  const int in_half_of_each_gpc = (form.num_clusters + 1) / 2 * kMostClusterSize;
  // GPCs that read more than others are waited for.
  if (reading > in_half_of_each_gpc) return {.cut_cost = 7, .whole_round = share(7, 9)};
  // Eight CTAs in each GPC read as fast as all do, in half of the GPCs nearly.
  if (2 * reading < in_half_of_each_gpc) return of_clusters;
  // 8: six units of 16384 keys are read sooner whole.
  return {.cut_cost = 8, .whole_round = share(in_half_of_each_gpc, form.ctas())};
}

}  // namespace parallax::kernels::cuda
