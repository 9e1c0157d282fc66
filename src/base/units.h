// Amounts of bytes as people write and read them.
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace hearth {

// Decimal units with one digit after the point, as disks and model sizes are named: "0 B", "999 B", "1.0 kB",
// "1.2 GB".
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);

// "4GiB", "512M", "1.5G", "800 MB", "4096". KiB, MiB, GiB, TiB and the bare letters K, M, G, T are powers of
// 1024; kB, MB, GB, TB are powers of 1000; case does not matter. A fraction needs a unit and has at most 6
// digits; what remains below one byte is dropped. Error kInvalidArgument names the text and shows how to
// write it.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);

// Bytes per second: "500 MB/s", "1.5GB/s", "400 Mbit/s", "1 Gbit/s"; > 0. kInvalidArgument as above.
[[nodiscard]] Result<double> parse_rate(std::string_view text);
// Seconds: "3 ms", "0.2 s", "250us"; >= 0. kInvalidArgument as above.
[[nodiscard]] Result<double> parse_seconds(std::string_view text);

}  // namespace hearth
