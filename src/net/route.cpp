#include "net/route.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

namespace hearth::net {

Result<std::string> local_address_towards(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  // Port 9 (discard) only completes the address: connecting a datagram socket sends nothing.
  if (const int error = getaddrinfo(host.c_str(), "9", &hints, &found); error != 0)
    return fail(ErrorCode::kPeerGone, "cannot resolve '{}': {}", host, gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, freeaddrinfo);
  for (const addrinfo* to = addresses.get(); to != nullptr; to = to->ai_next) {
    const int descriptor = socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) continue;
    sockaddr_storage own{};
    socklen_t size = sizeof(own);
    std::array<char, NI_MAXHOST> text{};
    const bool known = connect(descriptor, to->ai_addr, to->ai_addrlen) == 0 &&
                       getsockname(descriptor, reinterpret_cast<sockaddr*>(&own), &size) == 0 &&
                       getnameinfo(reinterpret_cast<sockaddr*>(&own), size, text.data(), text.size(), nullptr,
                                   0, NI_NUMERICHOST) == 0;
    close(descriptor);
    if (known) return std::string(text.data());
  }
  return fail(ErrorCode::kPeerGone, "there is no route to '{}': {}", host, std::strerror(errno));
}

}  // namespace hearth::net
