// A control group (version 1) with a memory limit, for one test, removed at its end. For tests only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <format>
#include <fstream>
#include <system_error>
#include <utility>

#include <unistd.h>

#include "base/os_memory.h"
#include "base/result.h"

namespace hearth {

class TestGroup {
 public:
  // kUnsupported with the reason where this machine or user cannot make one.
  static Result<TestGroup> make(std::uint64_t limit_bytes) {
    for (const MemoryGroup& own : memory_groups()) {
      if (own.version2) continue;
      static int number = 0;
      const auto folder = own.folder / std::format("hearth-test-{}-{}", getpid(), ++number);
      std::error_code error;
      if (!std::filesystem::create_directory(folder, error))
        return fail(ErrorCode::kUnsupported, "cannot make a control group in {}: {}", own.folder.string(),
                    error.message());
      TestGroup group(folder);
      std::ofstream limit(folder / "memory.limit_in_bytes");
      limit << limit_bytes << std::flush;
      if (!limit) return fail(ErrorCode::kUnsupported, "cannot limit the memory of {}", folder.string());
      return group;
    }
    return fail(ErrorCode::kUnsupported, "this machine has no memory control groups of version 1");
  }

  TestGroup(TestGroup&& other) noexcept : folder_(std::exchange(other.folder_, {})) {}
  TestGroup& operator=(TestGroup&&) = delete;
  ~TestGroup() {
    if (folder_.empty()) return;
    std::ofstream(folder_ / "memory.force_empty") << "0" << std::flush;
    std::error_code ignored;  // a left-over group must not fail a test
    std::filesystem::remove(folder_, ignored);
  }

  // Moves the calling process there; for children, which never come back.
  void enter() const {
    std::ofstream in(folder_ / "cgroup.procs");
    in << "0" << std::flush;
    HEARTH_CHECK(in.good(), "cannot enter the control group of the test");
  }

 private:
  explicit TestGroup(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::filesystem::path folder_;
};

}  // namespace hearth
