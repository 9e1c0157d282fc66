#include "cli/device_file.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/text.h"
#include "base/units.h"
#include "residency/division.h"
#include "wire/limits.h"
#include "wire/text.h"

namespace hearth::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kMostDevices = 64, kMostModels = 64;
constexpr std::size_t kMostNameBytes = 64;
constexpr std::uintmax_t kMostBytes = 4 << 20;
constexpr double kDefaultBits = 4.5;  // Q4_K

// An object of the file, with where it stands; each member is taken once, and nothing may be left.
class Object {
 public:
  static Result<Object> of(const json& value, std::string where) {
    if (!value.is_object())
      return fail(ErrorCode::kInvalidFile, "{}: expected an object, got {}", where, shown(value));
    return Object(value, std::move(where));
  }
  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] std::string where(std::string_view key) const { return std::format("{}.{}", where_, key); }

  const json* find(std::string_view key) {
    taken_.emplace_back(key);
    const auto at = value_->find(key);
    return at == value_->end() ? nullptr : &*at;
  }
  Result<const json*> need(std::string_view key) {
    const json* found = find(key);
    if (found == nullptr) return fail(ErrorCode::kInvalidFile, "{} is missing", where(key));
    return found;
  }
  [[nodiscard]] bool has(std::string_view key) const { return value_->contains(key); }
  // false where it is missing.
  Result<bool> boolean(std::string_view key) {
    const json* value = find(key);
    if (value == nullptr) return false;
    if (!value->is_boolean())
      return fail(ErrorCode::kInvalidFile, "{}: expected true or false, got {}", where(key), shown(*value));
    return value->get<bool>();
  }
  // A number in base units, or text with a unit.
  Result<double> quantity(std::string_view key, Result<double> (*parse)(std::string_view)) {
    HEARTH_TRY(const json* value, need(key));
    return as_quantity(*value, where(key), parse);
  }
  static Result<double> as_quantity(const json& value, const std::string& where,
                                    Result<double> (*parse)(std::string_view)) {
    if (value.is_string()) {
      auto parsed = parse(value.get<std::string>());
      if (!parsed) return fail(ErrorCode::kInvalidFile, "{}: {}", where, parsed.error().message);
      if (!(*parsed <= kMostAmount))
        return fail(ErrorCode::kInvalidFile,
                    "{}: expected at most {} bytes, bytes a second or seconds, got {}", where, kMostAmount,
                    shown(value));
      return parsed;
    }
    if (!value.is_number() || !(value.get<double>() >= 0) || !(value.get<double>() <= kMostAmount))
      return fail(ErrorCode::kInvalidFile, "{}: expected a number up to {}, or text with a unit, got {}",
                  where, kMostAmount, shown(value));
    return value.get<double>();
  }
  Result<std::uint32_t> whole(std::string_view key, std::uint32_t least, std::uint32_t most) {
    HEARTH_TRY(const json* value, need(key));
    if (!value->is_number_integer() || value->get<std::int64_t>() < least ||
        value->get<std::int64_t>() > most)
      return fail(ErrorCode::kInvalidFile, "{}: expected a whole number from {} to {}, got {}", where(key),
                  least, most, shown(*value));
    return static_cast<std::uint32_t>(value->get<std::int64_t>());
  }
  // `otherwise` where it is missing.
  Result<double> number(std::string_view key, double least, double most, double otherwise) {
    const json* value = find(key);
    if (value == nullptr) return otherwise;
    if (!value->is_number() || !(value->get<double>() >= least) || !(value->get<double>() <= most))
      return fail(ErrorCode::kInvalidFile, "{}: expected a number from {} to {}, got {}", where(key), least,
                  most, shown(*value));
    return value->get<double>();
  }
  Result<std::string> text(std::string_view key) {
    HEARTH_TRY(const json* value, need(key));
    if (!value->is_string() || value->get<std::string>().empty())
      return fail(ErrorCode::kInvalidFile, "{}: expected text, got {}", where(key), shown(*value));
    return value->get<std::string>();
  }
  // "note" members are for people.
  Result<> end() {
    for (const auto& [key, value] : value_->items())
      if (key != "note" && std::ranges::find(taken_, key) == taken_.end())
        return fail(ErrorCode::kInvalidFile, "{}: unknown member {}", where_, quote(key, 40));
    return {};
  }
  static std::string shown(const json& value) {
    if (value.is_structured()) return value.is_array() ? "an array" : "an object";
    return quote(value.dump(-1, ' ', false, json::error_handler_t::replace), 40);
  }

 private:
  Object(const json& value, std::string where) : value_(&value), where_(std::move(where)) {}
  const json* value_;
  std::string where_;
  std::vector<std::string> taken_;
};

Result<double> bytes_of(std::string_view text) {
  HEARTH_TRY(const std::uint64_t bytes, parse_bytes(text));
  return static_cast<double>(bytes);
}

Result<double> rate_of(const json& value, const std::string& where) {
  HEARTH_TRY(const double rate, Object::as_quantity(value, where, parse_rate));
  if (rate < 1 || rate > kMostAmount)
    return fail(ErrorCode::kInvalidFile, "{}: expected a rate from 1 to {} bytes a second, got {}", where,
                kMostAmount, Object::shown(value));
  return rate;
}

// Names come to terminals.
Result<> check_name(std::string_view name, const std::string& where) {
  if (wire::printable_utf8(name) && name.size() <= kMostNameBytes) return {};
  return fail(ErrorCode::kInvalidFile, "{}: expected at most {} bytes of printable text", where,
              kMostNameBytes);
}

Result<std::string> name_of(Object& object) {
  HEARTH_TRY(std::string name, object.text("name"));
  HEARTH_TRY_VOID(check_name(name, object.where("name")));
  return name;
}

Result<plan::ComputeProfile> compute_of(const json& value, const std::string& where) {
  plan::ComputeProfile made;
  if (!value.is_array()) {
    HEARTH_TRY(const double rate, rate_of(value, where));
    made.passes.push_back({.n_tokens = 1, .bytes_per_s = rate});
    return made;
  }
  for (const json& each : value) {
    HEARTH_TRY(Object pass, Object::of(each, std::format("{}[{}]", where, made.passes.size())));
    plan::PassRate rate;
    HEARTH_TRY(rate.n_tokens, pass.whole("tokens", 1, 1 << 20));
    HEARTH_TRY(const json* bytes_per_s, pass.need("rate"));
    HEARTH_TRY(rate.bytes_per_s, rate_of(*bytes_per_s, pass.where("rate")));
    HEARTH_TRY(rate.spread, pass.number("spread", 0, 10, 0));
    HEARTH_TRY_VOID(pass.end());
    if (!made.passes.empty() && rate.n_tokens <= made.passes.back().n_tokens)
      return fail(ErrorCode::kInvalidFile, "{}: expected passes by ascending tokens", pass.where());
    made.passes.push_back(rate);
  }
  if (made.passes.empty()) return fail(ErrorCode::kInvalidFile, "{}: expected at least one pass", where);
  return made;
}

Result<plan::DeviceProfile> device_of(const json& value, const std::string& where) {
  HEARTH_TRY(Object object, Object::of(value, where));
  plan::DeviceProfile device;
  HEARTH_TRY(device.name, name_of(object));
  HEARTH_TRY(const double memory, object.quantity("memory", bytes_of));
  device.memory_bytes = static_cast<std::uint64_t>(memory);
  if (const json* cpu = object.find("cpu"); cpu != nullptr) {
    HEARTH_TRY(device.cpu, compute_of(*cpu, object.where("cpu")));
  }
  if (const json* disk = object.find("disk"); disk != nullptr) {
    HEARTH_TRY(device.disk_bytes_per_s, rate_of(*disk, object.where("disk")));
  }
  HEARTH_TRY(device.disk_spread, object.number("disk_spread", 0, 10, 0));
  if (const json* gpu_value = object.find("gpu"); gpu_value != nullptr) {
    HEARTH_TRY(Object gpu, Object::of(*gpu_value, object.where("gpu")));
    plan::GpuProfile made;
    HEARTH_TRY(made.name, name_of(gpu));
    HEARTH_TRY(made.unified, gpu.boolean("unified"));
    HEARTH_TRY(const json* compute, gpu.need("compute"));
    HEARTH_TRY(made.compute, compute_of(*compute, gpu.where("compute")));
    if (!made.unified) {
      HEARTH_TRY(const double vram, gpu.quantity("memory", bytes_of));
      made.memory_bytes = static_cast<std::uint64_t>(vram);
      HEARTH_TRY(const json* upload, gpu.need("upload"));
      HEARTH_TRY(made.upload_bytes_per_s, rate_of(*upload, gpu.where("upload")));
    }
    HEARTH_TRY_VOID(gpu.end());
    device.gpu = std::move(made);
  }
  HEARTH_TRY_VOID(object.end());
  return device;
}

Result<plan::LinkProfile> link_of(Object& object) {
  plan::LinkProfile link;
  HEARTH_TRY(link.latency_s, object.quantity("latency", parse_seconds));
  if (const json* rate = object.find("rate"); rate != nullptr) {
    HEARTH_TRY(link.bytes_per_s, rate_of(*rate, object.where("rate")));
  }
  return link;
}

Result<> read_links(Object& file, DeviceFile& made) {
  const std::size_t n = made.devices.size();
  plan::LinkProfile all = plan::kAssumedLink;
  if (const json* value = file.find("link"); value != nullptr) {
    HEARTH_TRY(Object object, Object::of(*value, file.where("link")));
    HEARTH_TRY(all, link_of(object));
    HEARTH_TRY_VOID(object.end());
  }
  made.links.assign(n, std::vector<plan::LinkProfile>(n, all));
  const json* links = file.find("links");
  made.links_known = n == 1 || file.find("link") != nullptr;
  if (links == nullptr) return {};
  if (!links->is_array()) return fail(ErrorCode::kInvalidFile, "{}: expected a list", file.where("links"));
  std::vector<std::vector<bool>> given(n, std::vector<bool>(n, false));
  for (std::size_t i = 0; i < links->size(); ++i) {
    HEARTH_TRY(Object object, Object::of((*links)[i], std::format("{}[{}]", file.where("links"), i)));
    const auto index = [&](std::string_view key) -> Result<std::size_t> {
      HEARTH_TRY(const std::string name, object.text(key));
      const auto at = std::ranges::find(made.devices, name, &plan::DeviceProfile::name);
      if (at == made.devices.end())
        return fail(ErrorCode::kInvalidFile, "{}: there is no device {}", object.where(key), quote(name, 64));
      return static_cast<std::size_t>(at - made.devices.begin());
    };
    HEARTH_TRY(const std::size_t from, index("from"));
    HEARTH_TRY(const std::size_t to, index("to"));
    HEARTH_TRY(made.links[from][to], link_of(object));
    given[from][to] = from != to;
    HEARTH_TRY_VOID(object.end());
  }
  std::size_t n_given = 0;
  for (const auto& row : given) n_given += static_cast<std::size_t>(std::ranges::count(row, true));
  made.links_known = made.links_known || n_given == n * (n - 1);
  return {};
}

// Matrices of a transformer layer and of the output head, at so many bits a weight.
Result<DescribedModel> model_of(const json& value, const std::string& where) {
  HEARTH_TRY(Object object, Object::of(value, where));
  DescribedModel made;
  model::HyperParams& p = made.params;
  HEARTH_TRY(p.name, name_of(object));
  HEARTH_TRY(p.n_layer, object.whole("layers", 1, wire::kMaxLayers));
  HEARTH_TRY(p.n_embd, object.whole("width", 1, 1 << 18));
  HEARTH_TRY(p.n_ff, object.whole("feed_forward", 1, 1 << 20));
  HEARTH_TRY(p.n_head, object.whole("heads", 1, 4096));
  HEARTH_TRY(p.n_head_kv, object.whole("kv_heads", 1, 4096));
  HEARTH_TRY(p.head_dim_k, object.whole("head_width", 1, 4096));
  HEARTH_TRY(p.n_vocab, object.whole("vocabulary", 1, 1 << 24));
  p.head_dim_v = p.head_dim_k;
  HEARTH_TRY(const double bits, object.number("bits_per_weight", 0.5, 32, kDefaultBits));
  if (const json* published = object.find("published"); published != nullptr) {
    if (!published->is_object())
      return fail(ErrorCode::kInvalidFile, "{}: expected an object", object.where("published"));
    for (const auto& [name, tpot] : published->items()) {
      HEARTH_TRY_VOID(check_name(name, object.where("published")));
      HEARTH_TRY(const double seconds,
                 Object::as_quantity(tpot, std::format("{}.published.{}", where, name), parse_seconds));
      made.published.emplace_back(name, seconds);
    }
  }
  HEARTH_TRY_VOID(object.end());
  const auto bytes = [&](double weights) { return static_cast<std::uint64_t>(weights * bits / 8); };
  const double width = p.n_embd;
  const double layer = width * (2.0 * p.n_embd_q() + p.n_embd_k() + p.n_embd_v()) + 3.0 * width * p.n_ff;
  made.sizes.layer_bytes.assign(p.n_layer, bytes(layer));
  made.sizes.output_bytes = bytes(width * p.n_vocab);
  made.sizes.parts = {
      .largest_bytes = std::min(residency::kPartBytes, bytes(layer)),
      .mean_bytes = std::max<std::uint64_t>(1, std::min(residency::kPartBytes, bytes(layer)))};
  if (made.sizes.parts.largest_bytes == 0)
    return fail(ErrorCode::kInvalidFile, "{}: a layer has no weights", where);
  return made;
}

template <typename Each>
Result<std::size_t> each_of(Object& file, std::string_view key, std::size_t most, Each each) {
  const json* list = file.find(key);
  if (list == nullptr) return 0;
  if (!list->is_array() || list->size() > most)
    return fail(ErrorCode::kInvalidFile, "{}: expected a list of at most {}", file.where(key), most);
  for (std::size_t i = 0; i < list->size(); ++i)
    HEARTH_TRY_VOID(each((*list)[i], std::format("{}[{}]", file.where(key), i)));
  return list->size();
}

}  // namespace

Result<DeviceFile> parse_device_file(const std::string& text, const std::string& name) {
  json root;
  try {
    root = json::parse(text);
  } catch (const json::parse_error& error) {
    return fail(ErrorCode::kInvalidFile,
                "{} is no JSON, see byte {}; docs/reference/devices.md has the format", name, error.byte);
  }
  HEARTH_TRY(Object file, Object::of(root, name));
  DeviceFile made;
  HEARTH_TRY(
      const std::size_t n,
      each_of(file, "devices", kMostDevices, [&](const json& value, const std::string& where) -> Result<> {
        HEARTH_TRY(auto device, device_of(value, where));
        if (std::ranges::contains(made.devices, device.name, &plan::DeviceProfile::name))
          return fail(ErrorCode::kInvalidFile, "{}: there is a device {} already", where,
                      quote(device.name, 64));
        made.devices.push_back(std::move(device));
        return {};
      }));
  if (n == 0)
    return fail(ErrorCode::kInvalidFile,
                "{}: expected a list of devices, the head first (docs/reference/devices.md)",
                file.where("devices"));
  HEARTH_TRY_VOID(read_links(file, made));
  HEARTH_TRY(
      const std::size_t n_models,
      each_of(file, "models", kMostModels, [&](const json& value, const std::string& where) -> Result<> {
        HEARTH_TRY(auto described, model_of(value, where));
        made.models.push_back(std::move(described));
        return {};
      }));
  (void)n_models;
  HEARTH_TRY(made.vary, file.number("vary_rates", 0, 0.9, 0));
  HEARTH_TRY(made.gpus, file.boolean("gpus"));
  if (file.has("context")) {
    HEARTH_TRY(made.n_ctx, file.whole("context", 1, 1 << 24));
  }
  HEARTH_TRY_VOID(file.end());
  return made;
}

Result<DeviceFile> read_device_file(const std::filesystem::path& path) {
  std::error_code error;
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return fail(ErrorCode::kNotFound, "cannot read {}: {}", path.string(), error.message());
  if (bytes > kMostBytes)
    return fail(ErrorCode::kInvalidFile, "{} has {}, a file of devices has at most {}", path.string(),
                format_bytes(bytes), format_bytes(kMostBytes));
  std::ifstream in(path, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (!in) return fail(ErrorCode::kIo, "cannot read {}", path.string());
  return parse_device_file(text, path.filename().string());
}

nlohmann::ordered_json to_json(const plan::DeviceProfile& device) {
  const auto compute = [](const plan::ComputeProfile& of) {
    nlohmann::ordered_json passes = nlohmann::ordered_json::array();
    for (const plan::PassRate& pass : of.passes)
      passes.push_back({{"tokens", pass.n_tokens}, {"rate", pass.bytes_per_s}, {"spread", pass.spread}});
    return passes;
  };
  nlohmann::ordered_json made = {{"name", device.name}, {"memory", device.memory_bytes}};
  if (device.cpu.known()) made["cpu"] = compute(device.cpu);
  if (device.disk_bytes_per_s > 0) {
    made["disk"] = device.disk_bytes_per_s;
    made["disk_spread"] = device.disk_spread;
  }
  if (device.gpu) {
    made["gpu"] = {{"name", device.gpu->name},
                   {"unified", device.gpu->unified},
                   {"compute", compute(device.gpu->compute)}};
    if (!device.gpu->unified) {
      made["gpu"]["memory"] = device.gpu->memory_bytes;
      made["gpu"]["upload"] = device.gpu->upload_bytes_per_s;
    }
  }
  return made;
}

nlohmann::ordered_json devices_json(const plan::RingProfile& ring) {
  // Names of a ring may be equal, those of a file differ.
  std::vector<std::string> names;
  for (const plan::DeviceProfile& device : ring.devices) {
    std::string name = device.name;
    for (int nth = 2; std::ranges::contains(names, name); ++nth)
      name = std::format("{}-{}", device.name, nth);
    names.push_back(std::move(name));
  }
  nlohmann::ordered_json made = {{"devices", nlohmann::ordered_json::array()}};
  for (std::size_t m = 0; m < names.size(); ++m) {
    made["devices"].push_back(to_json(ring.devices[m]));
    made["devices"].back()["name"] = names[m];
  }
  if (ring.links.empty()) return made;
  made["links"] = nlohmann::ordered_json::array();
  for (std::size_t from = 0; from < names.size(); ++from) {
    for (std::size_t to = 0; to < names.size(); ++to) {
      const plan::LinkProfile& link = ring.links[from][to];
      if (from == to || link == plan::kAssumedLink) continue;  // which who reads the file assumes, too
      nlohmann::ordered_json one = {{"from", names[from]}, {"to", names[to]}, {"latency", link.latency_s}};
      if (link.bytes_per_s > 0) one["rate"] = link.bytes_per_s;
      made["links"].push_back(std::move(one));
    }
  }
  return made;
}

}  // namespace hearth::cli
