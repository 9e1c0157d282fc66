// What the tests of packs share: a model, a folder, packs in it. For tests only.
#pragma once

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "base/test_dir.h"
#include "compute/backend.h"
#include "residency/pack.h"
#include "support/test_models.h"
#include "support/value_of.h"

namespace hearth::residency::test {

using Bytes = std::vector<std::uint8_t>;

inline Bytes read_file(const std::filesystem::path& path, std::uint64_t offset = 0,
                       std::uint64_t n = ~std::uint64_t{0}) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  Bytes bytes(std::min<std::uint64_t>(n, std::filesystem::file_size(path) - offset));
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  HEARTH_CHECK(file.good(), "cannot read a file of the test");
  return bytes;
}

inline void write_at(const std::filesystem::path& path, std::uint64_t offset, const Bytes& bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  HEARTH_CHECK(file.flush().good(), "cannot write a file of the test");
}

inline void flip_bit(const std::filesystem::path& path, std::uint64_t offset) {
  Bytes byte = read_file(path, offset, 1);
  byte[0] ^= 0x10;
  write_at(path, offset, byte);
}

// One model on one device, with an empty folder for its packs.
struct Packing {
  explicit Packing(const std::filesystem::path& path)
      : model(testing::value_of(model::ModelFile::open(path))),
        backend(testing::value_of(compute::Backend::cpu(1))) {
    options.cache_dir = folder.path() / "packs";
    options.reserve_bytes = 0;
    options.notice = [this](const std::string& text) { notices.push_back(text); };
    options.progress = [this](std::uint64_t done, std::uint64_t total) {
      HEARTH_CHECK(done <= total, "more done than there is");
      packed = done;
      to_pack = total;
    };
  }

  [[nodiscard]] std::vector<model::SegmentId> all() const {
    std::vector<model::SegmentId> ids;
    for (std::uint32_t il = 0; il < model.params().n_layer; ++il)
      ids.push_back(model::SegmentId::of_layer(il));
    ids.push_back(model::SegmentId::output());
    return ids;
  }
  // Starts the figures anew.
  Result<PackFile> ensure(const std::vector<model::SegmentId>& ids) {
    packed = to_pack = 0;
    notices.clear();
    return ensure_pack(model, ids, backend->device(), options);
  }
  PackFile make(const std::vector<model::SegmentId>& ids) { return testing::value_of(ensure(ids)); }
  PackFile make() { return make(all()); }
  [[nodiscard]] bool noticed(const std::string& text) const {
    for (const auto& notice : notices)
      if (notice.find(text) != std::string::npos) return true;
    return false;
  }

  TestDir folder;
  model::ModelFile model;
  std::unique_ptr<compute::Backend> backend;
  PackOptions options;
  std::vector<std::string> notices;
  std::uint64_t packed = 0, to_pack = 0;  // as progress said last
};

}  // namespace hearth::residency::test
