#include "base/result.h"

#include <cstdio>
#include <cstdlib>

namespace hearth {

std::string_view name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kInvalidFile:
      return "invalid_file";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kIo:
      return "io";
    case ErrorCode::kOutOfMemory:
      return "out_of_memory";
    case ErrorCode::kPeerGone:
      return "peer_gone";
    case ErrorCode::kTimeout:
      return "timeout";
    case ErrorCode::kUnauthorized:
      return "unauthorized";
    case ErrorCode::kVersionMismatch:
      return "version_mismatch";
    case ErrorCode::kModelMismatch:
      return "model_mismatch";
    case ErrorCode::kProtocol:
      return "protocol";
    case ErrorCode::kNumeric:
      return "numeric";
    case ErrorCode::kCancelled:
      return "cancelled";
  }
  return "unknown";
}

void check_failed(const char* condition, const char* file, int line, std::string_view detail) {
  std::fprintf(stderr, "hearth: bug at %s:%d: %s is false%s%.*s\n", file, line, condition,
               detail.empty() ? "" : ": ", static_cast<int>(detail.size()), detail.data());
  std::abort();
}

}  // namespace hearth
