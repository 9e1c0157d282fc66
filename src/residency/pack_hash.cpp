#include "residency/pack_hash.h"

#include <blake3.h>
#include <xxhash.h>

#include "base/result.h"

namespace hearth::residency {

struct Blake3::State {
  blake3_hasher hasher;
};
Blake3::Blake3() : state_(std::make_unique<State>()) {
  blake3_hasher_init(&state_->hasher);
}
Blake3::~Blake3() = default;
void Blake3::add(std::span<const std::uint8_t> bytes) {
  blake3_hasher_update(&state_->hasher, bytes.data(), bytes.size());
}
Digest Blake3::digest() const {
  Digest digest;
  blake3_hasher_finalize(&state_->hasher, digest.data(), digest.size());
  return digest;
}
Digest blake3(std::span<const std::uint8_t> bytes) {
  Blake3 hash;
  hash.add(bytes);
  return hash.digest();
}

// The library aligns its own allocation of this state as it needs.
struct Xxh3::State {
  XXH3_state_t* state = XXH3_createState();
  ~State() { XXH3_freeState(state); }
};
Xxh3::Xxh3() : state_(std::make_unique<State>()) {
  HEARTH_CHECK(state_->state != nullptr && XXH3_64bits_reset(state_->state) == XXH_OK);
}
Xxh3::~Xxh3() = default;
void Xxh3::add(std::span<const std::uint8_t> bytes) {
  HEARTH_CHECK(XXH3_64bits_update(state_->state, bytes.data(), bytes.size()) == XXH_OK);
}
std::uint64_t Xxh3::digest() const {
  return XXH3_64bits_digest(state_->state);
}
std::uint64_t xxh3(std::span<const std::uint8_t> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

}  // namespace hearth::residency
