// SPDX-License-Identifier: Apache-2.0
// Pipes and FIFOs inside the tree: the pipe with its contents (kPipe), and each open file description of one of its
// ends (kPipeEnd).
//
// A pipe one of whose ends nobody holds any more (half-closed) needs no special record: at restart the coordinator
// makes both ends, and as the object hash drops them before the tasks run, the tasks see end-of-file or SIGPIPE at
// once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "stasis/image_schema.h"

namespace stasis {

struct PipeRecord {
  static constexpr RecordType kType = RecordType::kPipe;
  static constexpr std::string_view kName = "pipe";

  std::uint32_t capacity = 0;  // bytes
  std::vector<std::byte> contents;
  std::vector<std::uint32_t> packets;  // their lengths, if the contents are packets (O_DIRECT), else empty
  std::uint32_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::string fifo;  // path of a FIFO; empty: a pipe without a name

  static constexpr auto fields() {
    using R = PipeRecord;
    return std::tuple{field<1>("capacity", &R::capacity),
                      field<2>("contents", &R::contents),
                      field<3>("packets", &R::packets),
                      field<4>("mode", &R::mode, Show::kOctal),
                      field<5>("uid", &R::uid),
                      field<6>("gid", &R::gid),
                      field<7>("fifo", &R::fifo, MaxLength{4096})};
  }
};

struct PipeEndRecord {
  static constexpr RecordType kType = RecordType::kPipeEnd;
  static constexpr std::string_view kName = "pipe_end";

  ObjRef pipe;
  std::uint32_t flags = 0;  // O_*

  static constexpr auto fields() {
    return std::tuple{field<1>("pipe", &PipeEndRecord::pipe), field<2>("flags", &PipeEndRecord::flags, Show::kOctal)};
  }
};

// What lies in a pipe.
struct PipeContents {
  std::vector<std::byte> bytes;
  std::vector<std::uint32_t> packets;  // empty: a stream
};
// Copies what lies in a pipe without taking it out (tee(2)). `fd`: any end; `packet_mode`: how a single byte that could
// be either is taken. Nobody may read or write meanwhile.
enum class PipeMode { kStream, kPacket };
Result<PipeContents> copy_contents(int fd, PipeMode mode);
// Puts contents into an empty pipe by its write end, which must be O_NONBLOCK; leaves its flags as they are.
Result<void> put_contents(int write_end, const PipeContents& contents);

bool claims_pipe_end(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> pipe_end_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                          const CheckpointPolicy& policy);
Result<void> checkpoint_pipe_end(void* context, ObjRef ref, void* object);
Result<void*> restore_pipe_end(void* context, ObjRef ref);
// Object = OpenInode*.
Result<void> checkpoint_pipe(void* context, ObjRef ref, void* object);
Result<void*> restore_pipe(void* context, ObjRef ref);

// Who is at the other end of a pipe.
enum class PipePeer {
  kTree,     // only processes of the tree
  kNobody,   // it is half-closed
  kOutside,  // the tree has one side, somebody else has the other
  kShared,   // the tree has both sides, and somebody else has one too
};
PipePeer find_pipe_peer(const OpenFile& file, const OpenFileTable& tree);
// In words: "pid 12 (cat) reads it".
std::string describe_outside(const OpenFile& file, const OpenFileTable& tree);

// Both ends of a pipe made again; the tasks' ends are duplicates or openings of their own.
struct RestoredPipe : RestoredObject {
  UniqueFd read_end;  // of a FIFO: one descriptor for both, read_end only
  UniqueFd write_end;
};

inline constexpr ObjOps kPipeOps = {kind::kPipe, "pipe", nullptr, RestoredObject::drop, checkpoint_pipe, restore_pipe};
inline constexpr FileKind kPipeEndKind = {
    .ops = {kind::kPipeEnd, "pipe_end", nullptr, RestoredObject::drop, checkpoint_pipe_end, restore_pipe_end},
    .claims = claims_pipe_end,
    .obstacle = pipe_end_obstacle};

}  // namespace stasis
