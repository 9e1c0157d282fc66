#include "residency/resident_source.h"

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <ggml-backend.h>
#include <ggml.h>
#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "compute/backend.h"
#include "support/one_device.h"
#include "support/test_models.h"

namespace hearth::residency {
namespace {

using model::ModelFile;
using model::SegmentId;
using testing::small_spec;
using testing::test_model;
using testing::value_of;

std::vector<SegmentId> all_segments(const ModelFile& model) {
  std::vector<SegmentId> ids = {SegmentId::embedding()};
  for (std::uint32_t il = 0; il < model.params().n_layer; ++il) ids.push_back(SegmentId::of_layer(il));
  ids.push_back(SegmentId::output());
  return ids;
}

std::vector<char> file_bytes(const ModelFile& model, const gguf::Tensor& tensor) {
  std::vector<char> bytes(tensor.bytes);
  std::ifstream file(model.file().paths()[tensor.file_index], std::ios::binary);
  file.seekg(static_cast<std::streamoff>(tensor.offset));
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  HEARTH_CHECK(file.good());
  return bytes;
}

struct Loaded {
  explicit Loaded(const std::filesystem::path& path, bool repack)
      : model(value_of(ModelFile::open(path))), backend(value_of(compute::Backend::cpu(1))) {
    source = value_of(
        ResidentSource::load(model, all_segments(model), backend->device(),
                             {.repack = repack,
                              .progress = [this](LoadStage, std::uint64_t done,
                                                 std::uint64_t total) { steps.emplace_back(done, total); },
                              .cancelled = {}}));
  }
  ModelFile model;
  std::unique_ptr<compute::Backend> backend;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> steps;
  std::unique_ptr<ResidentSource> source;
};

TEST(ResidentSource, PlainTensorsAreTheFilesBytes) {
  synth::SynthSpec split = small_spec("qwen2", "Q4_K_M");
  split.split_files = 3;
  synth::SynthSpec tied = small_spec("qwen3", "Q8_0");
  tied.shape.tied = true;
  for (const auto& spec : {small_spec("llama", "Q4_0"), split, tied}) {
    const Loaded loaded(test_model(spec), false);
    std::uint64_t bytes = 0;
    std::set<const gguf::Tensor*> counted;
    for (const SegmentId id : all_segments(loaded.model)) {
      const auto places = value_of(loaded.source->acquire(id, 0));
      const auto& tensors = loaded.model.segment(id);
      ASSERT_EQ(places.size(), tensors.size());
      for (std::size_t i = 0; i < places.size(); ++i) {
        const auto wanted = file_bytes(loaded.model, *tensors[i].tensor);
        EXPECT_EQ(std::memcmp(places[i].data, wanted.data(), wanted.size()), 0) << tensors[i].tensor->name;
        EXPECT_EQ(places[i].extra, nullptr);
        EXPECT_NE(places[i].buffer, nullptr);
        if (counted.insert(tensors[i].tensor).second) bytes += wanted.size();
      }
      loaded.source->release(id, 0);
    }
    EXPECT_EQ(loaded.source->cost().mapped_bytes, bytes);
    EXPECT_EQ(loaded.source->cost().repacked_bytes, 0U);
    EXPECT_EQ(loaded.source->resident_bytes(), bytes);
    ASSERT_FALSE(loaded.steps.empty());
    EXPECT_EQ(loaded.steps.back().first, loaded.steps.back().second);
    // Of the embedding only rows are looked up, unless it is the output matrix too.
    EXPECT_EQ(loaded.steps.back().second,
              bytes - (spec.shape.tied ? 0 : loaded.model.segment_bytes(SegmentId::embedding())));
  }
}

// Which types have another layout depends on the CPU; what has none stays where it is, and what has one is
// counted.
TEST(ResidentSource, RepackedMatricesHaveMemoryOfTheirOwn) {
  for (const char* type : {"Q4_0", "Q4_K_M", "Q8_0", "F16"}) {
    SCOPED_TRACE(type);
    const Loaded plain(test_model(small_spec("llama", type)), false),
        loaded(test_model(small_spec("llama", type)), true);
    std::uint64_t mapped = 0, repacked = 0;
    for (const SegmentId id : all_segments(loaded.model)) {
      const auto places = value_of(loaded.source->acquire(id, 0));
      const auto& tensors = loaded.model.segment(id);
      for (std::size_t i = 0; i < places.size(); ++i) {
        const auto& tensor = *tensors[i].tensor;
        const bool is_repacked =
            ggml_backend_buffer_get_type(places[i].buffer) !=
            ggml_backend_buffer_get_type(value_of(plain.source->acquire(id, 0))[i].buffer);
        if (is_repacked) {
          EXPECT_FALSE(model::is_vector(tensors[i].role)) << tensor.name;
          EXPECT_NE(tensors[i].role, model::Role::kTokenEmbedding) << "its rows are looked up";
          EXPECT_EQ(reinterpret_cast<std::uintptr_t>(places[i].data) % 32, 0U);
          repacked += tensor.bytes;
        } else {
          const auto wanted = file_bytes(loaded.model, tensor);
          EXPECT_EQ(std::memcmp(places[i].data, wanted.data(), wanted.size()), 0) << tensor.name;
          mapped += tensor.bytes;
        }
      }
    }
    EXPECT_EQ(loaded.source->cost().mapped_bytes, mapped);
    EXPECT_EQ(loaded.source->cost().repacked_bytes, repacked) << "rows of these sizes need no padding";
    const std::uint64_t all = mapped + repacked - loaded.model.segment_bytes(SegmentId::embedding());
    std::uint64_t last = 0;
    for (const auto& [done, total] : loaded.steps) {
      EXPECT_GT(done, last);
      EXPECT_EQ(total, all);
      last = done;
    }
    EXPECT_EQ(last, all);
    std::cout << "[ figures  ] " << type << ": " << repacked << " of " << mapped + repacked
              << " bytes repacked\n";
  }
}

TEST(ResidentSource, HoldsOnlyTheSegmentsAskedFor) {
  const auto model = value_of(ModelFile::open(test_model(small_spec("llama", "Q8_0"))));
  const auto backend = value_of(compute::Backend::cpu(1));
  const std::vector<SegmentId> two = {SegmentId::of_layer(2), SegmentId::of_layer(5)};
  const auto source = value_of(ResidentSource::load(model, two, backend->device(),
                                                    {.repack = false, .progress = {}, .cancelled = {}}));
  EXPECT_EQ(source->resident_bytes(), model.segment_bytes(two[0]) + model.segment_bytes(two[1]));
  EXPECT_TRUE(source->acquire(two[1], 0));
  EXPECT_DEATH((void)source->acquire(SegmentId::of_layer(3), 0), "not loaded");
}

// Where the CPU repacks Q4_0 at all.
TEST(ResidentSource, KeepsToTheLimitOfItsMemory) {
  const auto path = test_model(small_spec("llama", "Q4_0"));
  const Loaded loaded(path, true);
  const std::uint64_t bytes = loaded.source->cost().repacked_bytes;
  if (bytes == 0) GTEST_SKIP() << "this CPU has no other layout for Q4_0";
  const auto load = [&](std::uint64_t limit, bool repack) {
    return ResidentSource::load(
        loaded.model, all_segments(loaded.model), loaded.backend->device(),
        {.repack = repack, .anonymous_limit = limit, .progress = {}, .cancelled = {}});
  };
  EXPECT_TRUE(load(bytes, true));
  EXPECT_TRUE(load(1, false)) << "plain weights take none";
  const auto refused = load(bytes - 1, true);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kOutOfMemory);
  EXPECT_NE(refused.error().message.find("--no-repack"), std::string::npos) << refused.error().message;
}

// The same bytes at the same place each time, for as long as the source lives.
TEST(ResidentSource, PlacesStay) {
  const Loaded loaded(test_model(small_spec("llama", "Q4_0")), true);
  const auto id = SegmentId::of_layer(4);
  const auto first = value_of(loaded.source->acquire(id, 0));
  loaded.source->release(id, 0);
  const auto second = value_of(loaded.source->acquire(id, 0));
  EXPECT_EQ(first.data(), second.data());
  EXPECT_EQ(first.size(), second.size());
}

TEST(ResidentSource, AFileThatIsGoneIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(test_model(small_spec("llama", "Q8_0")), path);
  const auto model = value_of(ModelFile::open(path));
  std::filesystem::remove(path);
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto source = ResidentSource::load(model, all_segments(model), backend->device(),
                                           {.repack = true, .progress = {}, .cancelled = {}});
  ASSERT_FALSE(source);
  EXPECT_NE(source.error().message.find(path.string()), std::string::npos) << source.error().message;
}

// Cut short after it was opened: an error, not a bus error while computing.
TEST(ResidentSource, AFileThatShrankIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(test_model(small_spec("llama", "Q8_0")), path);
  const auto model = value_of(ModelFile::open(path));
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto source = ResidentSource::load(model, all_segments(model), backend->device(),
                                           {.repack = false, .progress = {}, .cancelled = {}});
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kInvalidFile);
}

// Cut short while it is used: its bytes are zeros then, not a bus error, and an error comes before they
// count.
TEST(ResidentSource, AFileThatShrinksWhileItIsUsedIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(test_model(small_spec("llama", "Q8_0")), path);
  const Loaded loaded(path, false);
  const auto places = value_of(loaded.source->acquire(SegmentId::output(), 0));
  EXPECT_TRUE(loaded.source->still_good());
  std::filesystem::resize_file(path, 4096);
  const auto& tensors = loaded.model.segment(SegmentId::output());
  for (std::size_t i = 0; i < places.size(); ++i) {
    const auto* bytes = static_cast<const char*>(places[i].data);
    const gguf::Tensor& tensor = *tensors[i].tensor;
    EXPECT_EQ(bytes[tensor.bytes - 1], 0) << tensor.name;
  }
  const auto good = loaded.source->still_good();
  ASSERT_FALSE(good);
  EXPECT_EQ(good.error().code, ErrorCode::kIo);
  EXPECT_NE(good.error().message.find(path.string()), std::string::npos) << good.error().message;
  EXPECT_FALSE(loaded.source->still_good()) << "not only once";
}

// Plain weights are the file's own pages: who writes to it changes what is computed.
TEST(ResidentSource, AFileThatIsWrittenToWhileItIsUsedIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(test_model(small_spec("llama", "Q8_0")), path);
  // The clock of a file system is coarse: a change during the test is a later one for sure.
  std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) - std::chrono::hours(1));
  const Loaded loaded(path, false);
  EXPECT_TRUE(loaded.source->still_good());
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out).seekp(-1, std::ios::end).put('x');
  const auto good = loaded.source->still_good();
  ASSERT_FALSE(good);
  EXPECT_EQ(good.error().code, ErrorCode::kInvalidFile);
  EXPECT_NE(good.error().message.find(path.string() + ": was written to"), std::string::npos)
      << good.error().message;
}

TEST(ResidentSource, AFileThatShrinksWhileItIsLoadedIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(test_model(small_spec("llama", "Q4_0")), path);
  const auto model = value_of(ModelFile::open(path));
  const auto backend = value_of(compute::Backend::cpu(1));
  const auto source = ResidentSource::load(
      model, all_segments(model), backend->device(),
      {.repack = true,
       .progress = [&](LoadStage, std::uint64_t, std::uint64_t) { std::filesystem::resize_file(path, 4096); },
       .cancelled = {}});
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kIo);
  EXPECT_NE(source.error().message.find(path.string()), std::string::npos) << source.error().message;
}

TEST(ResidentSource, ANormThatIsNoNumberIsAnError) {
  const TestDir folder;
  const auto path = folder.path() / "model.gguf";
  std::filesystem::copy_file(test_model(small_spec("qwen2", "Q8_0")), path);
  const auto model = value_of(ModelFile::open(path));
  const auto backend = value_of(compute::Backend::cpu(1));
  for (const std::string name : {"blk.6.ffn_norm.weight", "output_norm.weight", "blk.0.attn_k.bias"}) {
    const gguf::Tensor* tensor = model.file().find_tensor(name);
    ASSERT_NE(tensor, nullptr) << name;
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    const auto at = static_cast<std::streamoff>(tensor->offset + 5 * sizeof(float));
    const auto write = [&](float value) {
      file.seekp(at);
      file.write(reinterpret_cast<const char*>(&value), sizeof value);
      file.flush();
    };
    float old = 0;
    file.seekg(at);
    file.read(reinterpret_cast<char*>(&old), sizeof old);
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      write(bad);
      const auto source = ResidentSource::load(model, all_segments(model), backend->device(),
                                               {.repack = true, .progress = {}, .cancelled = {}});
      ASSERT_FALSE(source);
      EXPECT_EQ(source.error().code, ErrorCode::kInvalidFile);
      EXPECT_NE(source.error().message.find("value 5 of tensor '" + name + "'"), std::string::npos)
          << source.error().message;
    }
    write(old);
    EXPECT_TRUE(ResidentSource::load(model, all_segments(model), backend->device(),
                                     {.repack = true, .progress = {}, .cancelled = {}}));
  }
}

}  // namespace
}  // namespace hearth::residency
