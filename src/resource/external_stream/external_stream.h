// SPDX-License-Identifier: Apache-2.0
// Streams that lead out of the tree: what a shell, a harness or a service manager gave the program as its standard
// input, output and error, and its terminal. They are not saved but bound anew at restart.
//
//   descriptor 0, 1 or 2                     -> the restart command's own
//   another number of the same description   -> where its lowest standard number goes (bash keeps such duplicates)
//   the terminal, opened by path             -> the terminal of the restart command, or else one of its own streams
//   anything else                            -> what --inherit-fd says; without it the restart is refused
//
// Flags: the description that a stream is bound to belongs to others too (the shell reads from it). So O_NONBLOCK is
// never taken away; where the program had set it and it is not set now, the terminal or pipe is opened anew for the
// program alone, and only where that can't be, the flag is set on the shared description, as any program does that sets
// it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "image/record_types.h"
#include "resource/kinds.h"
#include "resource/open_file/open_file.h"
#include "resource/restart_context.h"
#include "resource/terminal/pty.h"
#include "stasis/image_schema.h"

namespace stasis {

enum class ExternalForm : std::uint8_t { kTerminal = 0, kPipe = 1, kSocket = 2 };
constexpr auto enum_names(ExternalForm) {
  return std::array{EnumName{ExternalForm::kTerminal, "terminal"}, EnumName{ExternalForm::kPipe, "pipe"},
                    EnumName{ExternalForm::kSocket, "socket"}};
}

struct ExternalRecord {
  static constexpr RecordType kType = RecordType::kExternal;
  static constexpr std::string_view kName = "external";

  ExternalForm form = ExternalForm::kTerminal;
  std::string link;  // what it was
  std::uint32_t flags = 0;
  std::vector<std::int32_t> numbers;  // that any process had for it, ascending
  std::string peer;                   // who was at the other end, if known
  // Of a terminal: what its modes and size were. They are those of a foreground job; a restart that lends its terminal
  // sets the modes (see engine/job_control.h).
  std::optional<TerminalSettings> settings;

  static constexpr auto fields() {
    using R = ExternalRecord;
    return std::tuple{field<1>("form", &R::form),
                      field<2>("link", &R::link, MaxLength{4096}),
                      field<3>("flags", &R::flags, Show::kOctal),
                      field<4>("numbers", &R::numbers),
                      field<5>("peer", &R::peer, MaxLength{256}),
                      field<6>("settings", &R::settings)};
  }
};

bool claims_external(const OpenFile& file, const OpenFileTable& tree);
std::optional<Obstacle> external_obstacle(const OpenFile& file, const OpenFileTable& tree,
                                          const CheckpointPolicy& policy);
Result<void> checkpoint_external(void* context, ObjRef ref, void* object);
Result<void*> restore_external(void* context, ObjRef ref);

class RestoredExternal : public RestoredFile {
 public:
  explicit RestoredExternal(ExternalRecord record) : record_(std::move(record)) {}
  // Parks the streams it goes to.
  Result<void> bind(const RestartContext& ctx);
  int descriptor_for(int number) const override;
  Error unbound(int number) const override;
  void replace(UniqueFd other) override;

 private:
  Result<UniqueFd> stream(int number, const RestartContext& ctx) const;
  Result<UniqueFd> terminal(const RestartContext& ctx) const;
  Result<UniqueFd> with_flags(UniqueFd fd, const RestartContext& ctx) const;

  ExternalRecord record_;
  std::array<UniqueFd, 3> streams_;  // by standard number, those that it had
};

inline constexpr FileKind kExternalKind = {
    .ops = {kind::kExternal, "external", nullptr, RestoredObject::drop, checkpoint_external, restore_external},
    .claims = claims_external,
    .obstacle = external_obstacle};

}  // namespace stasis
