// Weights in a GPU's memory: the bytes of the file, and what goes wrong on the way there.
#include "residency/gpu_source.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/test_dir.h"
#include "residency/ggml_tensors.h"
#include "support/test_models.h"
#include "support/value_of.h"
#include "support/vulkan.h"

namespace hearth::testing {
namespace {

using model::SegmentId;

std::vector<char> file_bytes(const std::filesystem::path& path, std::uint64_t offset, std::uint64_t n) {
  std::vector<char> bytes(n);
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(bytes.data(), static_cast<std::streamsize>(n));
  EXPECT_TRUE(file.good());
  return bytes;
}

class GpuSourceTest : public ::testing::Test {
 protected:
  // A file of its own, that a test may change.
  GpuSourceTest() {
    std::filesystem::copy_file(test_model(small_spec("llama", "Q4_K_M")), path_);
    model_.emplace(value_of(model::ModelFile::open(path_)));
  }
  Result<std::unique_ptr<residency::GpuSource>> load(const residency::LoadOptions& options = {}) {
    return residency::GpuSource::load(*model_, ids_, gpu_->device(), options, nullptr);
  }

  TestDir folder_;
  std::filesystem::path path_ = folder_.path() / "model.gguf";
  std::optional<model::ModelFile> model_;
  std::unique_ptr<compute::Backend> gpu_ = value_of(compute::Backend::gpu(test_gpu()));
  std::vector<SegmentId> ids_ = {SegmentId::of_layer(1), SegmentId::of_layer(5), SegmentId::output()};
};

TEST_F(GpuSourceTest, HasTheBytesOfTheFile) {
  const auto source = value_of(load());
  std::uint64_t data_bytes = 0;
  for (const SegmentId id : ids_) {
    EXPECT_TRUE(source->on_gpu(id));
    ASSERT_EQ(source->parts(id).size(), 1U);
    const auto places = value_of(source->acquire(id, 0));
    const auto& tensors = model_->segment(id);
    ASSERT_EQ(places.size(), tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const gguf::Tensor& tensor = *tensors[i].tensor;
      const residency::ContextPtr ctx = residency::make_context(1);
      ggml_tensor* there = residency::declare(ctx.get(), tensor);
      there->data = places[i].data;
      there->buffer = places[i].buffer;
      std::vector<char> bytes(tensor.bytes);
      ggml_backend_tensor_get(there, bytes.data(), 0, bytes.size());
      EXPECT_EQ(bytes, file_bytes(path_, tensor.offset, tensor.bytes)) << tensor.name;
      data_bytes += tensor.bytes;
    }
    source->release(id, 0);
  }
  value_of(source->still_good());
  EXPECT_FALSE(source->streams());
  EXPECT_EQ(source->resident_bytes(), 0U) << "nothing in the processor's memory";
  const std::uint64_t taken = residency::GpuSource::bytes(*model_, ids_, gpu_->device());
  EXPECT_GE(taken, data_bytes);
  EXPECT_LT(taken, data_bytes + 256 * 64) << "at most a padding for each tensor";
}

TEST_F(GpuSourceTest, TellsHowFarItIsAndCanBeEnded) {
  std::vector<std::uint64_t> done, totals;
  residency::LoadOptions options;
  options.progress = [&](residency::LoadStage, std::uint64_t now, std::uint64_t total) {
    done.push_back(now);
    totals.push_back(total);
  };
  value_of(load(options));
  EXPECT_TRUE(std::ranges::is_sorted(done));
  EXPECT_EQ(done.back(), totals.back());
  int asked = 0;
  options.cancelled = [&] { return ++asked == 4; };
  const auto ended = load(options);
  ASSERT_FALSE(ended);
  EXPECT_EQ(ended.error().code, ErrorCode::kCancelled);
}

TEST_F(GpuSourceTest, AFileThatIsWrittenToMeanwhileIsAnError) {
  residency::LoadOptions options;
  bool written = false;
  options.progress = [&](residency::LoadStage, std::uint64_t, std::uint64_t) {
    if (!std::exchange(written, true)) std::ofstream(path_, std::ios::app) << "more";
  };
  const auto source = load(options);
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kInvalidFile);
  EXPECT_NE(source.error().message.find("was written to"), std::string::npos) << source.error().message;
}

TEST_F(GpuSourceTest, AFileThatWasCutShortIsAnError) {
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) / 2);
  const auto source = load();
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kIo);
}

TEST_F(GpuSourceTest, ANormThatIsNoNumberIsAnError) {
  const auto& tensors = model_->segment(SegmentId::of_layer(5));
  const auto norm = std::ranges::find(tensors, model::Role::kFfnNorm, &model::SegmentTensor::role);
  std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(norm->tensor->offset));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  file.write(reinterpret_cast<const char*>(&nan), sizeof(nan));
  file.close();
  const auto source = load();
  ASSERT_FALSE(source);
  EXPECT_EQ(source.error().code, ErrorCode::kInvalidFile);
  EXPECT_NE(source.error().message.find(norm->tensor->name), std::string::npos) << source.error().message;
}

}  // namespace
}  // namespace hearth::testing
