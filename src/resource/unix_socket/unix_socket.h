// SPDX-License-Identifier: Apache-2.0
// Unix sockets (man 7 unix): streams, datagrams, seqpackets; pairs, listening, connected, with their queues.
//
// What connects two of them is an object of its own, a link (kUnixLink): socketpair(2), or a connect(2) to a name.
// Names come back exactly, also where the file is gone or the listener has ended: such links are made in a root
// directory that nobody else sees (kernel/private_root.h). So no file is touched but those of sockets that can still be
// reached.
//
// Order of a restart, as works of the deferred queue (each adds the next, so all sockets pass a step before any takes
// the next one):
//   at restore   sockets and links exist; nothing has a name of its own yet, queues are empty
//   bind         names, listen(2)
//   fill         unread messages are sent again by the far end, with credentials and descriptors in flight (which may
//   be
//                any file of the tree, the socket itself too); connections that nobody accepted yet are made
//   finish       datagram sockets are connected, halves shut down, options set
// A far end that was closed is closed when the object hash drops its references, before the tasks run.
//
// Data of a connection that nobody accepted yet can't be read by anybody but its server: that is refused.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "kernel/private_root.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/socket/socket_options.h"
#include "resource/unix_socket/unix_relations.h"
#include "stasis/image_schema.h"

namespace stasis {

// What a socket's name leads to.
enum class UnixPlace : std::uint8_t {
  kNone = 0,  // it has none, or its link gives it
  kAbstract = 1,
  kFile = 2,      // a file that leads to it
  kDetached = 3,  // a path that leads elsewhere or nowhere by now
};
constexpr auto enum_names(UnixPlace) {
  return std::array{EnumName{UnixPlace::kNone, "none"}, EnumName{UnixPlace::kAbstract, "abstract"},
                    EnumName{UnixPlace::kFile, "file"}, EnumName{UnixPlace::kDetached, "detached"}};
}

struct InFlightRecord {
  ObjRef file;
  std::uint16_t kind = 0;
  static constexpr auto fields() {
    return std::tuple{field<1>("file", &InFlightRecord::file), field<2>("kind", &InFlightRecord::kind)};
  }
};

struct UnixCredentialsRecord {
  std::int32_t pid = 0;  // as the tree sees it
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  static constexpr auto fields() {
    using R = UnixCredentialsRecord;
    return std::tuple{field<1>("pid", &R::pid), field<2>("uid", &R::uid), field<3>("gid", &R::gid)};
  }
};

struct UnixMessageRecord {
  std::vector<std::byte> bytes;
  std::vector<InFlightRecord> files;
  std::optional<UnixCredentialsRecord> credentials;
  std::string sender_name;
  ObjRef sender;  // a datagram socket of the tree that has this name

  static constexpr auto fields() {
    using R = UnixMessageRecord;
    return std::tuple{field<1>("bytes", &R::bytes), field<2>("files", &R::files, MaxLength{253}),
                      field<3>("credentials", &R::credentials),
                      field<4>("sender_name", &R::sender_name, MaxLength{108}),
                      field<5>("sender", &R::sender, Null::kAllowed)};
  }
};

struct UnixSocketRecord {
  static constexpr RecordType kType = RecordType::kUnixSocket;
  static constexpr std::string_view kName = "unix_socket";

  UnixType type = UnixType::kStream;
  UnixRole role = UnixRole::kSingle;
  std::uint32_t flags = 0;
  std::string name;  // a path, or NUL and an abstract name
  UnixPlace place = UnixPlace::kNone;
  std::string directory;   // of a relative path
  std::uint32_t mode = 0;  // of the file
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t backlog = 0;
  std::vector<ObjRef> pending;  // of a listening socket: those that it has not accepted yet, first come first
  ObjRef link;
  std::uint8_t side = 0;      // of the link
  ObjRef peer;                // kConnected
  std::string peer_name;      // kConnected, kOrphan, kReconnect
  std::uint8_t shutdown = 0;  // 1: for reading, 2: for writing
  bool reset = false;         // an ECONNRESET waits
  std::vector<UnixMessageRecord> queue;
  std::vector<SocketOptionRecord> options;

  static constexpr auto fields() {
    using R = UnixSocketRecord;
    return std::tuple{field<1>("type", &R::type),
                      field<2>("role", &R::role),
                      field<3>("flags", &R::flags, Show::kOctal),
                      field<4>("name", &R::name, MaxLength{108}),
                      field<5>("place", &R::place),
                      field<6>("directory", &R::directory, MaxLength{4096}),
                      field<7>("mode", &R::mode, Show::kOctal),
                      field<8>("uid", &R::uid),
                      field<9>("gid", &R::gid),
                      field<10>("backlog", &R::backlog),
                      field<11>("pending", &R::pending),
                      field<12>("link", &R::link, Null::kAllowed),
                      field<13>("side", &R::side),
                      field<14>("peer", &R::peer, Null::kAllowed),
                      field<15>("peer_name", &R::peer_name, MaxLength{108}),
                      field<16>("shutdown", &R::shutdown),
                      field<17>("reset", &R::reset),
                      field<18>("queue", &R::queue),
                      field<19>("options", &R::options, MaxLength{256})};
  }
};

// Two connected sockets. Side 0 connected, side 1 was accepted (where a name tells).
struct UnixLinkRecord {
  static constexpr RecordType kType = RecordType::kUnixLink;
  static constexpr std::string_view kName = "unix_link";

  UnixType type = UnixType::kStream;
  std::string name0;
  std::string name1;
  // As SO_PEERCRED of the other side tells; none: not known.
  std::optional<UnixCredentialsRecord> credentials0;
  std::optional<UnixCredentialsRecord> credentials1;

  static constexpr auto fields() {
    using R = UnixLinkRecord;
    return std::tuple{field<1>("type", &R::type), field<2>("name0", &R::name0, MaxLength{108}),
                      field<3>("name1", &R::name1, MaxLength{108}), field<4>("credentials0", &R::credentials0),
                      field<5>("credentials1", &R::credentials1)};
  }
};

// Claims what external_stream does not.
bool claims_unix_socket(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> unix_socket_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                             const CheckpointPolicy& policy);
Result<void> checkpoint_unix_socket(void* context, ObjRef ref, void* object);
Result<void*> restore_unix_socket(void* context, ObjRef ref);
// Object = OpenInode* of the end with the lower inode number.
Result<void> checkpoint_unix_link(void* context, ObjRef ref, void* object);
Result<void*> restore_unix_link(void* context, ObjRef ref);

struct RestoredUnixLink : RestoredObject {
  UnixType type = UnixType::kStream;
  std::array<UniqueFd, 2> ends;
};

class RestoredUnixSocket : public RestoredFile {
 public:
  explicit RestoredUnixSocket(UnixSocketRecord record) : record_(std::move(record)) {}
  // The steps above.
  Result<void> create(RestartContext& ctx);
  Result<void> bind(RestartContext& ctx);
  Result<void> fill(RestartContext& ctx);
  Result<void> finish(RestartContext& ctx);
  void replace(UniqueFd other) override;

 private:
  Result<void> bind_file(RestartContext& ctx);
  Result<void> bind_detached();
  // Runs `action` where its name leads to it.
  Result<void> where_named(const std::function<Result<void>()>& action) const;
  // Connects another socket to this one.
  Result<void> connect_to(int other, std::string_view name) const;
  Result<void> connect_peer(RestartContext& ctx) const;
  Result<void> connect_orphan() const;
  Result<UniqueFd> stand_in_sender(const UnixMessageRecord& message) const;
  Result<void> send(int sender, bool to_name, const UnixMessageRecord& message, const ObjHash& objects) const;
  Result<void> put(const UnixMessageRecord& message, const RestartContext& ctx) const;

  UnixSocketRecord record_;
  RestoredUnixLink* link_ = nullptr;
  std::optional<kernel::PrivateRoot> root_;  // where its name can be reached, if not in ours
  UniqueFd directory_;                       // where its relative name can
  bool replaced_ = false;
};

inline constexpr FileKind kUnixSocketKind = {.ops = {kind::kUnixSocket, "unix_socket", nullptr, RestoredObject::drop,
                                                     checkpoint_unix_socket, restore_unix_socket},
                                             .claims = claims_unix_socket,
                                             .obstacle = unix_socket_obstacle};
inline constexpr ObjOps kUnixLinkOps = {kind::kUnixLink,      "unix_link",          nullptr,
                                        RestoredObject::drop, checkpoint_unix_link, restore_unix_link};

}  // namespace stasis
