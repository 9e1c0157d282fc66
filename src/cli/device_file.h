// Files that describe devices, their links, and models: what `hearth plan --what-if` plans for, and what
// `hearth profile --json` prints. docs/reference/devices.md is the format's page.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "model/model_file.h"
#include "node/model_profile.h"
#include "plan/profiles.h"

namespace hearth::cli {

// Of bytes and seconds in such a file; rates are at least a byte a second and at most as many.
inline constexpr double kMostAmount = 1e16;

// A model without a file.
struct DescribedModel {
  model::HyperParams params;
  node::ModelSizes sizes;
  // Seconds per token that others were measured to take, by their name, to be shown beside the plan's.
  std::vector<std::pair<std::string, double>> published;
};

struct DeviceFile {
  std::vector<plan::DeviceProfile> devices;           // [0] is the head
  std::vector<std::vector<plan::LinkProfile>> links;  // [from][to]
  bool links_known = true;                            // false: some are plan::kAssumedLink
  std::vector<DescribedModel> models;
  bool gpus = false;        // plan layers on GPUs
  std::uint32_t n_ctx = 0;  // context to plan for; 0: not said
  double vary = 0;          // plan again with all rates higher and lower by this share; 0: do not
};

// kNotFound, kIo; kInvalidFile names the place in the file, what was expected and what is there.
[[nodiscard]] Result<DeviceFile> read_device_file(const std::filesystem::path& path);
[[nodiscard]] Result<DeviceFile> parse_device_file(const std::string& text, const std::string& name);

// One device as such a file has it.
[[nodiscard]] nlohmann::ordered_json to_json(const plan::DeviceProfile& device);
// A file of a ring's devices and links.
[[nodiscard]] nlohmann::ordered_json devices_json(const plan::RingProfile& ring);

}  // namespace hearth::cli
