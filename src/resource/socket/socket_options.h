// SPDX-License-Identifier: Apache-2.0
// Options of sockets (man 7 socket, unix, ip, ipv6, tcp, udp): those that differ from a fresh socket's are saved.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "stasis/image_schema.h"
#include "stasis/result.h"

namespace stasis {

struct SocketOptionRecord {
  std::int32_t level = 0;
  std::int32_t name = 0;
  std::string label;  // for people
  std::vector<std::byte> value;

  static constexpr auto fields() {
    using R = SocketOptionRecord;
    return std::tuple{field<1>("level", &R::level), field<2>("name", &R::name),
                      field<3>("label", &R::label, MaxLength{64}), field<4>("value", &R::value, MaxLength{65536})};
  }
};

// What differs from a fresh socket of the same domain, type and protocol. An eBPF filter: kUnsupportedObject.
// Of TCP sockets the buffers' sizes always are, as the kernel changes them.
Result<std::vector<SocketOptionRecord>> save_socket_options(int fd);

// When an option is given to the new socket.
enum class OptionPhase {
  kBeforeBind,  // it changes what bind(2) and connect(2) do
  kAtTheEnd,    // after the queues are filled
  kBuffers,     // the sizes of buffers, at any time
};
// Gives a socket the options of one phase. One that Stasis does not know: kBadImage.
Result<void> restore_socket_options(int fd, std::span<const SocketOptionRecord> options, OptionPhase phase);

// While one lives the send buffer has room for that many bytes, as far as we may.
class LargeSendBuffer {
 public:
  LargeSendBuffer(int fd, std::size_t bytes);
  LargeSendBuffer(const LargeSendBuffer&) = delete;
  LargeSendBuffer& operator=(const LargeSendBuffer&) = delete;
  ~LargeSendBuffer();

 private:
  int fd_;
  int size_ = 0;
  int lock_ = 0;
};

}  // namespace stasis
