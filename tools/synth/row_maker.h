// Makes the bytes of rows of planned tensors: random numbers, quantized.
//
// Row r of a tensor depends on (seed, tensor name, r) only, so any thread may make any row in any order.
// prepare() is called once per tensor by one thread; make() then runs on several.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "synth/tensor_plan.h"

namespace hearth::synth {

class RowMaker {
 public:
  // rope_freq_base: of the factors of Llama 3.1.
  RowMaker(const SynthSpec& spec, float rope_freq_base, bool pooled);

  // Makes what rows of `tensor` need: quantization tables, the pool of its type and scale.
  void prepare(const PlannedTensor& tensor);

  // Fills `out` with rows [first, first + count). `scratch` is the calling thread's own.
  void make(const PlannedTensor& tensor, std::int64_t first, std::int64_t count, std::span<std::byte> out,
            std::vector<float>& scratch) const;

 private:
  // Quantized random chunks of one (type, scale); a row is a sequence of chunks drawn from it.
  struct PoolOf {
    std::vector<std::byte> bytes;
    std::size_t chunk_bytes = 0;
    std::size_t n_chunks = 0;  // a power of two
  };
  using PoolKey = std::pair<std::pair<ggml_type, std::int64_t>, float>;

  [[nodiscard]] bool uses_pool(const PlannedTensor& tensor) const;
  void make_vector(const PlannedTensor& tensor, std::span<std::byte> out) const;

  std::uint64_t seed_;
  std::uint32_t n_embd_;
  std::uint32_t rope_old_ctx_;
  float rope_freq_base_;
  bool pooled_;
  std::map<PoolKey, PoolOf> pools_;
  std::vector<float> uniform_imatrix_;
};

}  // namespace hearth::synth
