// A folder of its own for one test, removed with everything in it at the end. For tests only.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hearth {

class TestDir {
 public:
  TestDir() {
    std::string shape = (std::filesystem::temp_directory_path() / "hearth-test-XXXXXX").string();
    HEARTH_CHECK(::mkdtemp(shape.data()) != nullptr, "cannot make a folder for the test");
    path_ = shape;
  }
  TestDir(const TestDir&) = delete;
  TestDir& operator=(const TestDir&) = delete;
  ~TestDir() {
    std::error_code ignored;  // a left-over folder in /tmp must not fail a test
    std::filesystem::remove_all(path_, ignored);
  }

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  // Writes the file `name` and returns its path.
  std::filesystem::path write(std::string_view name, std::string_view bytes) const {
    const std::filesystem::path file = path_ / name;
    std::ofstream stream(file, std::ios::binary);
    stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    HEARTH_CHECK(stream.flush().good(), "cannot write a file of the test");
    return file;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace hearth
