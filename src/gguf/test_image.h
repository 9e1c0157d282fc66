// GGUF files built field by field, for tests only: written from the format's description, sharing nothing
// with the code under test, and able to break any single field.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <format>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hearth::gguf {

// The bytes of a file, and where its fields begin: "version", "n_tensors", "n_keys"; "k0.length", "k0.name",
// "k0.type", "k0.value" (for an array also "k0.count", "k0.items"); "t0.length", "t0.name", "t0.n_dims",
// "t0.ne0", "t0.type", "t0.offset"; "header_end", "data", "end". All numbers little-endian.
struct Image {
  std::string bytes;
  std::map<std::string, std::size_t, std::less<>> at;

  template <class T>
  void append(T number) {
    for (std::size_t i = 0; i < sizeof(T); ++i)
      bytes += static_cast<char>(static_cast<std::uint64_t>(number) >> (8 * i) & 0xFF);
  }
  void append_string(std::string_view text) {
    append(std::uint64_t{text.size()});
    bytes += text;
  }
  void mark(std::string field) { at[std::move(field)] = bytes.size(); }

  // Overwrites the bytes of one field.
  template <class T>
  Image& put(std::string_view field, T number) {
    Image written;
    written.append(number);
    bytes.replace(at.find(field)->second, sizeof(T), written.bytes);
    return *this;
  }
  [[nodiscard]] std::span<const std::uint8_t> span() const {
    return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
  }
};

// One metadata entry: the number of its type and the bytes that follow it.
struct TestKey {
  std::string key;
  std::uint32_t type;
  std::string payload;
};

inline std::string encoded(auto number) {
  Image image;
  image.append(number);
  return image.bytes;
}
inline TestKey u16_key(std::string key, std::uint16_t v) {
  return {std::move(key), 2, encoded(v)};
}
inline TestKey u32_key(std::string key, std::uint32_t v) {
  return {std::move(key), 4, encoded(v)};
}
inline TestKey i32_key(std::string key, std::int32_t v) {
  return {std::move(key), 5, encoded(v)};
}
inline TestKey bool_key(std::string key, std::uint8_t v) {
  return {std::move(key), 7, encoded(v)};
}
inline TestKey f32_key(std::string key, float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof v);
  return {std::move(key), 6, encoded(bits)};
}
inline TestKey f64_key(std::string key, double v) {
  std::uint64_t bits;
  std::memcpy(&bits, &v, sizeof v);
  return {std::move(key), 12, encoded(bits)};
}
inline TestKey string_key(std::string key, std::string_view v) {
  Image image;
  image.append_string(v);
  return {std::move(key), 8, image.bytes};
}
// `items` are already encoded.
inline TestKey array_key(std::string key, std::uint32_t item_type, std::uint64_t count,
                         std::string_view items) {
  Image image;
  image.append(item_type);
  image.append(count);
  image.bytes += items;
  return {std::move(key), 9, image.bytes};
}
inline TestKey string_array_key(std::string key, const std::vector<std::string>& strings) {
  Image items;
  for (const std::string& text : strings) items.append_string(text);
  return array_key(std::move(key), 8, strings.size(), items.bytes);
}

struct TestTensor {
  std::string name;
  std::vector<std::int64_t> ne;
  std::uint32_t type;    // number in the file: 0 F32, 8 Q8_0 ...
  std::uint64_t offset;  // in the data section
};

struct TestFile {
  std::uint32_t version = 3;
  std::vector<TestKey> keys;
  std::vector<TestTensor> tensors;
  std::uint64_t alignment = 32;  // where the data are put; says nothing about a key
  std::uint64_t data_bytes = 0;
};

inline Image build(const TestFile& file) {
  Image image;
  image.mark("magic");
  image.bytes = "GGUF";
  image.mark("version");
  image.append(file.version);
  image.mark("n_tensors");
  image.append(std::uint64_t{file.tensors.size()});
  image.mark("n_keys");
  image.append(std::uint64_t{file.keys.size()});
  for (std::size_t i = 0; i < file.keys.size(); ++i) {
    const TestKey& key = file.keys[i];
    image.mark(std::format("k{}.length", i));
    image.append(std::uint64_t{key.key.size()});
    image.mark(std::format("k{}.name", i));
    image.bytes += key.key;
    image.mark(std::format("k{}.type", i));
    image.append(key.type);
    image.mark(std::format("k{}.value", i));
    if (key.type == 9) {
      image.at[std::format("k{}.count", i)] = image.bytes.size() + 4;
      image.at[std::format("k{}.items", i)] = image.bytes.size() + 12;
    }
    image.bytes += key.payload;
  }
  for (std::size_t i = 0; i < file.tensors.size(); ++i) {
    const TestTensor& tensor = file.tensors[i];
    image.mark(std::format("t{}.length", i));
    image.append(std::uint64_t{tensor.name.size()});
    image.mark(std::format("t{}.name", i));
    image.bytes += tensor.name;
    image.mark(std::format("t{}.n_dims", i));
    image.append(static_cast<std::uint32_t>(tensor.ne.size()));
    for (std::size_t j = 0; j < tensor.ne.size(); ++j) {
      image.mark(std::format("t{}.ne{}", i, j));
      image.append(tensor.ne[j]);
    }
    image.mark(std::format("t{}.type", i));
    image.append(tensor.type);
    image.mark(std::format("t{}.offset", i));
    image.append(tensor.offset);
  }
  image.mark("header_end");
  if (!file.tensors.empty()) {
    while (image.bytes.size() % file.alignment != 0) image.bytes += '\0';
    image.mark("data");
    for (std::uint64_t i = 0; i < file.data_bytes; ++i) image.bytes += static_cast<char>(i * 7 + 1);
  }
  image.mark("end");
  return image;
}

// A small valid file: five keys, and two tensors that take the data's bytes 0-67 and 96-115.
inline TestFile small_file() {
  TestFile file;
  file.keys = {
      string_key("general.architecture", "llama"),
      u32_key("general.alignment", 32),
      array_key("test.numbers", 4, 3, encoded(std::uint32_t{1}) + encoded(std::uint32_t{2}) + encoded(~0U)),
      string_array_key("test.strings", {"a", "bc", ""}),
      bool_key("test.flag", 1),
  };
  file.tensors = {{"tok.weight", {32, 2}, 8, 0}, {"out.bias", {5}, 0, 96}};
  file.data_bytes = 116;
  return file;
}

}  // namespace hearth::gguf
