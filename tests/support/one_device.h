// OneDevice: what a device needs to run windows of a model, put together for a test.
#pragma once

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "compute/backend.h"
#include "compute/head.h"
#include "compute/scratch.h"
#include "compute/window.h"
#include "model/model_file.h"
#include "residency/resident_source.h"
#include "support/value_of.h"

namespace hearth::testing {

struct DeviceOptions {
  std::uint32_t n_cells = 256;
  std::uint32_t n_ubatch = 64;
  std::uint32_t n_outputs = 64;
  bool repack = true;
  bool flash_attention = true;
  wire::KvTypes kv_type = {};
};

class OneDevice {
 public:
  explicit OneDevice(const std::filesystem::path& path, const DeviceOptions& options = {})
      : model(std::make_unique<model::ModelFile>(value_of(model::ModelFile::open(path)))),
        backend(value_of(compute::Backend::cpu(1))) {
    std::vector<model::SegmentId> segments = {model::SegmentId::embedding(), model::SegmentId::output()};
    for (std::uint32_t il = 0; il < model->params().n_layer; ++il)
      segments.push_back(model::SegmentId::of_layer(il));
    weights = value_of(residency::ResidentSource::load(
        *model, segments, backend->device(), {.repack = options.repack, .progress = {}, .cancelled = {}}));
    scratch = value_of(compute::Scratch::create(*backend, *model,
                                                {.n_cells = options.n_cells,
                                                 .n_ubatch = options.n_ubatch,
                                                 .flash_attention = options.flash_attention,
                                                 .kv_type = options.kv_type}));
    head = value_of(compute::Head::create(*backend, *model, *weights, options.n_ubatch, options.n_outputs));
  }

  [[nodiscard]] std::unique_ptr<compute::Window> window(plan::LayerRange layers,
                                                        wire::KvTypes kv_type = {}) const {
    return value_of(compute::Window::create(*scratch, *model, layers, *weights, kv_type));
  }
  [[nodiscard]] std::unique_ptr<compute::Window> all_layers() const {
    return window({0, model->params().n_layer});
  }

  // n tokens of sequence `seq` from `position` on, in cells of the same number; only the last one is an
  // output.
  [[nodiscard]] static wire::Batch batch(std::int32_t position, std::int32_t n, std::uint32_t seq = 0) {
    wire::Batch batch;
    batch.id = 1;
    for (std::int32_t i = 0; i < n; ++i)
      batch.tokens.push_back({.position = position + i,
                              .cell = static_cast<std::uint32_t>(position + i),
                              .sequences = wire::SequenceSet::of(seq),
                              .output = i + 1 == n});
    return batch;
  }
  // Any n tokens, the same for the same `from`.
  [[nodiscard]] std::vector<std::int32_t> tokens(std::int32_t from, std::int32_t n) const {
    std::vector<std::int32_t> ids;
    for (std::int32_t i = from; i < from + n; ++i)
      ids.push_back((7 + i * 131) % static_cast<std::int32_t>(model->params().n_vocab));
    return ids;
  }

  // Embeds the tokens, runs the windows one after another, and copies what the last one gives.
  std::vector<float> run(std::initializer_list<compute::Window*> windows, const wire::Batch& batch,
                         std::span<const std::int32_t> ids) const {
    std::vector<float> rows(ids.size() * model->params().n_embd);
    value_of(head->embed(ids, rows));
    for (compute::Window* window : windows) {
      std::ranges::copy(rows, window->input(static_cast<std::uint32_t>(ids.size())).begin());
      const auto out = value_of(window->run(batch));
      rows.assign(out.begin(), out.end());
    }
    return rows;
  }

  std::unique_ptr<model::ModelFile> model;
  std::unique_ptr<compute::Backend> backend;
  std::unique_ptr<residency::ResidentSource> weights;
  std::unique_ptr<compute::Scratch> scratch;
  std::unique_ptr<compute::Head> head;
};

}  // namespace hearth::testing
