// File against ggml's own reader: on files both accept they see the same, and ggml survives every file that
// File accepts (it ends the process on some broken ones, which would end this test).
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <format>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include <ggml.h>
#include <gguf.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "gguf/file.h"
#include "gguf/test_image.h"
#include "gguf/test_invariants.h"

namespace hearth::gguf {
namespace {

struct FreeContext {
  void operator()(gguf_context* context) const { gguf_free(context); }
};
using Context = std::unique_ptr<gguf_context, FreeContext>;

constexpr gguf_init_params kNoData = {.no_alloc = true, .ctx = nullptr};

template <class T>
Value scalar(const gguf_context* context, int64_t id) {
  T value;
  std::memcpy(&value, gguf_get_val_data(context, id), sizeof value);
  return value;
}

template <class T>
Value array(const gguf_context* context, int64_t id) {
  std::vector<T> values(gguf_get_arr_n(context, id));
  // An empty array has no data to point to.
  if (!values.empty()) std::memcpy(values.data(), gguf_get_arr_data(context, id), values.size() * sizeof(T));
  return values;
}

Value array_value(const gguf_context* context, int64_t id) {
  const std::size_t count = gguf_get_arr_n(context, id);
  switch (gguf_get_arr_type(context, id)) {
    case GGUF_TYPE_UINT8:
      return array<std::uint8_t>(context, id);
    case GGUF_TYPE_INT8:
      return array<std::int8_t>(context, id);
    case GGUF_TYPE_UINT16:
      return array<std::uint16_t>(context, id);
    case GGUF_TYPE_INT16:
      return array<std::int16_t>(context, id);
    case GGUF_TYPE_UINT32:
      return array<std::uint32_t>(context, id);
    case GGUF_TYPE_INT32:
      return array<std::int32_t>(context, id);
    case GGUF_TYPE_UINT64:
      return array<std::uint64_t>(context, id);
    case GGUF_TYPE_INT64:
      return array<std::int64_t>(context, id);
    case GGUF_TYPE_FLOAT32:
      return array<float>(context, id);
    case GGUF_TYPE_FLOAT64:
      return array<double>(context, id);
    case GGUF_TYPE_BOOL: {
      std::vector<bool> values;
      const auto* bytes =
          count == 0 ? nullptr : static_cast<const std::int8_t*>(gguf_get_arr_data(context, id));
      for (std::size_t i = 0; i < count; ++i) values.push_back(bytes[i] != 0);
      return values;
    }
    default: {
      StringArray values;
      for (std::size_t i = 0; i < count; ++i) values.push_back(gguf_get_arr_str(context, id, i));
      return values;
    }
  }
}

Value value_of(const gguf_context* context, int64_t id) {
  switch (gguf_get_kv_type(context, id)) {
    case GGUF_TYPE_UINT8:
      return scalar<std::uint8_t>(context, id);
    case GGUF_TYPE_INT8:
      return scalar<std::int8_t>(context, id);
    case GGUF_TYPE_UINT16:
      return scalar<std::uint16_t>(context, id);
    case GGUF_TYPE_INT16:
      return scalar<std::int16_t>(context, id);
    case GGUF_TYPE_UINT32:
      return scalar<std::uint32_t>(context, id);
    case GGUF_TYPE_INT32:
      return scalar<std::int32_t>(context, id);
    case GGUF_TYPE_UINT64:
      return scalar<std::uint64_t>(context, id);
    case GGUF_TYPE_INT64:
      return scalar<std::int64_t>(context, id);
    case GGUF_TYPE_FLOAT32:
      return scalar<float>(context, id);
    case GGUF_TYPE_FLOAT64:
      return scalar<double>(context, id);
    case GGUF_TYPE_BOOL:
      return gguf_get_val_bool(context, id);
    case GGUF_TYPE_STRING:
      return std::string(gguf_get_val_str(context, id));
    default:
      return array_value(context, id);
  }
}

// ggml hands out C strings: what follows a zero byte does not show.
std::string as_c_string(const std::string& text) {
  return text.c_str();
}

// Ours, then ggml's. Bitwise, so that NaN equals itself.
bool same(const Value& a, const Value& b) {
  if (a.index() != b.index()) return false;
  return std::visit(
      [&]<class T>(const T& left) {
        const T& right = std::get<T>(b);
        if constexpr (std::is_floating_point_v<T>) {
          return std::memcmp(&left, &right, sizeof left) == 0;
        } else if constexpr (std::is_same_v<T, std::vector<float>> ||
                             std::is_same_v<T, std::vector<double>>) {
          return left.size() == right.size() &&
                 (left.empty() || std::memcmp(left.data(), right.data(), left.size() * sizeof left[0]) == 0);
        } else if constexpr (std::is_same_v<T, std::string>) {
          return as_c_string(left) == right;
        } else if constexpr (std::is_same_v<T, StringArray>) {
          if (left.size() != right.size()) return false;
          for (std::size_t i = 0; i < left.size(); ++i)
            if (as_c_string(std::string(left[i])) != right[i]) return false;
          return true;
        } else {
          return left == right;
        }
      },
      a);
}

// Empty when both see the same file, else the first difference.
std::string difference(const File& file, const gguf_context* context) {
  if (file.version() != gguf_get_version(context)) return "version";
  if (static_cast<int64_t>(file.metadata().size()) != gguf_get_n_kv(context)) return "number of keys";
  for (int64_t i = 0; i < gguf_get_n_kv(context); ++i) {
    const KeyValue& entry = file.metadata()[static_cast<std::size_t>(i)];
    if (entry.key != gguf_get_key(context, i)) return std::format("key {}", i);
    if (!same(entry.value, value_of(context, i))) return "value of " + entry.key;
  }
  if (static_cast<int64_t>(file.tensors().size()) != gguf_get_n_tensors(context)) return "number of tensors";
  for (int64_t i = 0; i < gguf_get_n_tensors(context); ++i) {
    const Tensor& tensor = file.tensors()[static_cast<std::size_t>(i)];
    const int64_t* ne = gguf_get_tensor_ne(context, i);
    if (tensor.name != gguf_get_tensor_name(context, i)) return std::format("name of tensor {}", i);
    if (static_cast<int>(tensor.type) != gguf_get_tensor_type(context, i)) return "type of " + tensor.name;
    if (!std::equal(ne, ne + 4, tensor.ne.begin())) return "shape of " + tensor.name;
    if (tensor.bytes != gguf_get_tensor_size(context, i)) return "size of " + tensor.name;
    if (tensor.offset != gguf_get_data_offset(context) + gguf_get_tensor_offset(context, i))
      return "offset of " + tensor.name;
  }
  return "";
}

TEST(AgainstGgml, SeesTheSameInARealModel) {
  const std::filesystem::path models = HEARTH_SOURCE_DIR "/models";
  int n_models = 0;
  for (const auto& entry : std::filesystem::directory_iterator(models)) {
    if (entry.path().extension() != ".gguf") continue;
    const auto file = File::open(entry.path());
    ASSERT_TRUE(file.has_value()) << file.error().message;
    const Context context(gguf_init_from_file(entry.path().c_str(), kNoData));
    ASSERT_NE(context, nullptr);
    EXPECT_EQ(difference(*file, context.get()), "") << entry.path();
    ++n_models;
  }
  EXPECT_GT(n_models, 0) << "no .gguf in " << models;
}

// A valid file as ggml accepts it too: tensors one after the other, text that fits its C strings.
rc::Gen<TestFile> valid_file() {
  return rc::gen::exec([] {
    const auto number = [](int from, int to) { return *rc::gen::inRange(from, to); };
    const auto word = [&] {
      return *rc::gen::container<std::string>(static_cast<std::size_t>(number(0, 12)),
                                              rc::gen::inRange('a', 'z'));
    };
    constexpr std::size_t kItemBytes[] = {1, 1, 2, 2, 4, 4, 4,
                                          1, 0, 0, 8, 8, 8};  // by type; 0: no fixed size
    const auto items = [&](std::uint32_t type, int count) {
      Image image;
      for (int i = 0; i < count; ++i) {
        if (type == 8) image.append_string(word());
        for (std::size_t byte = 0; byte < kItemBytes[type]; ++byte)
          image.append(static_cast<std::uint8_t>(type == 7 ? number(0, 2) : number(0, 256)));
      }
      return image.bytes;
    };
    const auto item_type = [&] {
      const auto type = static_cast<std::uint32_t>(number(0, 12));
      return type < 9 ? type : type + 1;  // all but arrays
    };
    TestFile file;
    file.version = static_cast<std::uint32_t>(number(2, 4));
    file.alignment = std::uint64_t{1} << number(3, 9);
    if (number(0, 2) == 0)
      file.alignment = 32;
    else
      file.keys.push_back(u32_key("general.alignment", static_cast<std::uint32_t>(file.alignment)));
    for (int i = number(0, 8); i > 0; --i) {
      const std::string key = std::format("{}.{}", word(), i);
      const std::uint32_t type = item_type();
      if (number(0, 2) == 0)
        file.keys.push_back({key, type, items(type, 1)});
      else {
        const int count = number(0, 5);
        file.keys.push_back(array_key(key, type, static_cast<std::uint64_t>(count), items(type, count)));
      }
    }
    std::uint64_t end = 0;
    for (int i = number(0, 6); i > 0; --i) {
      int type = number(0, GGML_TYPE_COUNT);
      if (ggml_blck_size(static_cast<ggml_type>(type)) == 0) type = GGML_TYPE_F32;
      std::vector<std::int64_t> ne(static_cast<std::size_t>(number(1, 5)));
      for (std::int64_t& n : ne) n = number(1, 4);
      ne[0] *= ggml_blck_size(static_cast<ggml_type>(type));
      file.tensors.push_back({std::format("{}.{}", word(), i), ne, static_cast<std::uint32_t>(type), end});
      std::uint64_t bytes = ggml_row_size(static_cast<ggml_type>(type), ne[0]);
      for (std::size_t dim = 1; dim < ne.size(); ++dim) bytes *= static_cast<std::uint64_t>(ne[dim]);
      end = (end + bytes + file.alignment - 1) / file.alignment * file.alignment;
    }
    file.data_bytes = end;
    return file;
  });
}

RC_GTEST_PROP(AgainstGgml, SeesTheSameInAnyValidFile, ()) {
  const Image image = build(*valid_file());
  const auto file = File::parse(image.span(), image.bytes.size());
  RC_ASSERT(file.has_value());
  check_invariants(*file, image.bytes.size());
  const Context context(gguf_init_from_buffer(image.bytes.data(), image.bytes.size(), kNoData));
  const bool ggml_accepts = context != nullptr;
  RC_ASSERT(ggml_accepts);
  RC_ASSERT(difference(*file, context.get()) == "");
}

// Bytes of a valid file are changed at random. ggml only sees what File accepts, and must agree where it
// accepts as well (it refuses gaps between tensors, which the format allows).
RC_GTEST_PROP(AgainstGgml, SurvivesWhatFileAccepts, ()) {
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);  // it reports each gap
  const Image original = build(*valid_file());
  const std::size_t header_end = original.at.at("header_end");
  std::mt19937_64 random(*rc::gen::arbitrary<std::uint64_t>());
  int n_accepted = 0;
  for (int round = 0; round < 200; ++round) {
    Image image = original;
    for (std::uint64_t changes = 1 + random() % 3; changes > 0; --changes)
      image.bytes[random() % header_end] = static_cast<char>(random());
    const auto file = File::parse(image.span(), image.bytes.size());
    if (!file) continue;
    ++n_accepted;
    check_invariants(*file, image.bytes.size());
    const Context context(gguf_init_from_buffer(image.bytes.data(), image.bytes.size(), kNoData));
    if (context != nullptr) RC_ASSERT(difference(*file, context.get()) == "");
  }
  RC_CLASSIFY(n_accepted >= 10, "10 or more of 200 accepted");
}

}  // namespace
}  // namespace hearth::gguf
