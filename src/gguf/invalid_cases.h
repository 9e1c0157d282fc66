// Broken GGUF files, one broken field each, with the code and the words that the error must have. For tests
// only.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "base/result.h"
#include "gguf/test_image.h"

namespace hearth::gguf {

struct InvalidCase {
  std::string name;
  Image image;
  ErrorCode code;
  // Each must appear in the message; "{t0.ne0}" stands for the byte where that field begins.
  std::vector<std::string> words;

  // GoogleTest prints the name instead of the bytes.
  friend std::ostream& operator<<(std::ostream& stream, const InvalidCase& broken) {
    return stream << broken.name;
  }
};

[[nodiscard]] std::vector<InvalidCase> invalid_cases();

}  // namespace hearth::gguf
