#include "synth/row_maker.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>
#include <string_view>

namespace hearth::synth {
namespace {

constexpr std::size_t kPoolWeights = std::size_t{1} << 20;
constexpr std::int64_t kChunkWeights = 256;
constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15ull;

// The finalizer of SplitMix64: a bijection of 64 bits that passes statistical tests on a counter.
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

std::uint64_t hash(std::uint64_t seed, std::string_view text) {
  std::uint64_t h = mix(seed + kGolden);
  for (const char c : text) h = mix(h ^ static_cast<unsigned char>(c)) + kGolden;
  return h;
}

std::uint64_t row_key(std::uint64_t tensor_key, std::int64_t row) {
  return mix(tensor_key + kGolden * (static_cast<std::uint64_t>(row) + 1));
}

// Close to normal: the sum of the four 16-bit parts of one random word (Irwin-Hall), 3.46 deviations at most.
float normal(std::uint64_t key, std::uint64_t index) {
  const std::uint64_t z = mix(key + kGolden * (index + 1));
  const auto sum =
      static_cast<std::int32_t>((z & 0xFFFF) + (z >> 16 & 0xFFFF) + (z >> 32 & 0xFFFF) + (z >> 48)) -
      2 * 0xFFFF;
  return static_cast<float>(sum) * (std::numbers::sqrt3_v<float> / 65536.0f);
}

void normal_row(std::uint64_t key, float deviation, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = deviation * normal(key, i);
}

std::int64_t chunk_weights(const PlannedTensor& tensor) {
  const std::int64_t block = ggml_blck_size(tensor.type);
  const std::int64_t chunk = std::gcd(tensor.n_in, kChunkWeights);
  return chunk % block == 0 ? chunk : block;
}

}  // namespace

RowMaker::RowMaker(const SynthSpec& spec, float rope_freq_base, bool pooled)
    : seed_(spec.seed),
      n_embd_(spec.shape.n_embd),
      rope_old_ctx_(8192),
      rope_freq_base_(rope_freq_base),
      pooled_(pooled) {}

bool RowMaker::uses_pool(const PlannedTensor& tensor) const {
  return pooled_ && !tensor.one_dimensional && tensor.weights() > kPoolWeights;
}

void RowMaker::prepare(const PlannedTensor& tensor) {
  if (tensor.one_dimensional) return;
  ggml_quantize_init(tensor.type);
  const auto n_in = static_cast<std::size_t>(tensor.n_in);
  if (ggml_quantize_requires_imatrix(tensor.type) && uniform_imatrix_.size() < n_in)
    uniform_imatrix_.assign(n_in, 1.0f);
  if (!uses_pool(tensor)) return;

  const std::int64_t chunk = chunk_weights(tensor);
  PoolOf& pool = pools_[{{tensor.type, chunk}, tensor.scale}];
  if (!pool.bytes.empty()) return;
  pool.n_chunks = 1;
  while (pool.n_chunks * 2 * static_cast<std::size_t>(chunk) <= kPoolWeights) pool.n_chunks *= 2;
  pool.chunk_bytes = ggml_row_size(tensor.type, chunk);
  pool.bytes.resize(pool.chunk_bytes * pool.n_chunks);
  const std::uint64_t key = hash(seed_, "pool");
  std::vector<float> row(static_cast<std::size_t>(chunk));
  for (std::size_t i = 0; i < pool.n_chunks; ++i) {
    normal_row(row_key(key, static_cast<std::int64_t>(i)), tensor.scale, row);
    ggml_quantize_chunk(tensor.type, row.data(), pool.bytes.data() + i * pool.chunk_bytes, 0, 1, chunk,
                        ggml_quantize_requires_imatrix(tensor.type) ? uniform_imatrix_.data() : nullptr);
  }
}

void RowMaker::make_vector(const PlannedTensor& tensor, std::span<std::byte> out) const {
  std::vector<float> values(static_cast<std::size_t>(tensor.n_in));
  const std::uint64_t key = hash(seed_, tensor.name);
  switch (tensor.fill) {
    case Fill::kNormal:
      normal_row(key, tensor.scale, values);
      break;
    case Fill::kNorm:
      for (std::size_t i = 0; i < values.size(); ++i) {
        const bool outlier =
            tensor.outlier_gain != 1 && is_outlier_channel(static_cast<std::int64_t>(i), n_embd_);
        values[i] = tensor.scale * (1 + 0.1f * normal(key, i)) * (outlier ? tensor.outlier_gain : 1.0f);
      }
      break;
    case Fill::kRopeFreqs: {
      // Llama 3.1: wavelengths above the old context slow down 8 times, those below a quarter of it stay.
      constexpr double kFactor = 8, kLow = 1, kHigh = 4;
      const double n_rot = 2.0 * static_cast<double>(values.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        const double frequency =
            std::pow(static_cast<double>(rope_freq_base_), -2.0 * static_cast<double>(i) / n_rot);
        const double turns = rope_old_ctx_ * frequency / (2 * std::numbers::pi);
        const double smooth = std::clamp((turns - kLow) / (kHigh - kLow), 0.0, 1.0);
        values[i] = static_cast<float>(1 / ((1 - smooth) / kFactor + smooth));
      }
      break;
    }
  }
  std::memcpy(out.data(), values.data(), out.size());
}

void RowMaker::make(const PlannedTensor& tensor, std::int64_t first, std::int64_t count,
                    std::span<std::byte> out, std::vector<float>& scratch) const {
  if (tensor.one_dimensional) {
    make_vector(tensor, out);
    return;
  }
  const std::size_t row_bytes = ggml_row_size(tensor.type, tensor.n_in);
  const std::uint64_t key = hash(seed_, tensor.name);
  const float* imatrix = ggml_quantize_requires_imatrix(tensor.type) ? uniform_imatrix_.data() : nullptr;
  const PoolOf* pool =
      uses_pool(tensor) ? &pools_.at({{tensor.type, chunk_weights(tensor)}, tensor.scale}) : nullptr;
  scratch.resize(static_cast<std::size_t>(tensor.n_in));

  for (std::int64_t r = 0; r < count; ++r) {
    std::byte* row = out.data() + static_cast<std::size_t>(r) * row_bytes;
    const std::uint64_t key_of_row = row_key(key, first + r);
    const bool outlier = tensor.outlier_gain != 1 && is_outlier_channel(first + r, n_embd_);
    if (pool != nullptr && !outlier) {
      const std::size_t n = row_bytes / pool->chunk_bytes;
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t pick = mix(key_of_row + kGolden * (i + 1)) & (pool->n_chunks - 1);
        std::memcpy(row + i * pool->chunk_bytes, pool->bytes.data() + pick * pool->chunk_bytes,
                    pool->chunk_bytes);
      }
    } else {
      normal_row(key_of_row, tensor.scale * (outlier ? tensor.outlier_gain : 1.0f), scratch);
      ggml_quantize_chunk(tensor.type, scratch.data(), row, 0, 1, tensor.n_in, imatrix);
    }
  }
}

}  // namespace hearth::synth
