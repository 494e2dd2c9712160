// SPDX-License-Identifier: Apache-2.0
#include "resource/credentials/credentials.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include "base/panic.h"
#include "kernel/prctl.h"

namespace stasis {
namespace {

constexpr std::uint32_t kNoId = ~std::uint32_t{0};  // (uid_t)-1: "leave it"

constexpr std::uint64_t bit(unsigned capability) { return std::uint64_t{1} << capability; }

struct CapabilityHeader {
  std::uint32_t version = _LINUX_CAPABILITY_VERSION_3;
  std::int32_t pid = 0;
};
static_assert(sizeof(CapabilityHeader) == sizeof(__user_cap_header_struct));

// {effective, permitted, inheritable} of capabilities 0-31, then of 32-63.
using CapabilityData = std::array<std::uint32_t, 6>;
static_assert(sizeof(CapabilityData) == 2 * sizeof(__user_cap_data_struct));

constexpr std::array<std::string_view, 41> kCapabilityNames = {"CHOWN",
                                                               "DAC_OVERRIDE",
                                                               "DAC_READ_SEARCH",
                                                               "FOWNER",
                                                               "FSETID",
                                                               "KILL",
                                                               "SETGID",
                                                               "SETUID",
                                                               "SETPCAP",
                                                               "LINUX_IMMUTABLE",
                                                               "NET_BIND_SERVICE",
                                                               "NET_BROADCAST",
                                                               "NET_ADMIN",
                                                               "NET_RAW",
                                                               "IPC_LOCK",
                                                               "IPC_OWNER",
                                                               "SYS_MODULE",
                                                               "SYS_RAWIO",
                                                               "SYS_CHROOT",
                                                               "SYS_PTRACE",
                                                               "SYS_PACCT",
                                                               "SYS_ADMIN",
                                                               "SYS_BOOT",
                                                               "SYS_NICE",
                                                               "SYS_RESOURCE",
                                                               "SYS_TIME",
                                                               "SYS_TTY_CONFIG",
                                                               "MKNOD",
                                                               "LEASE",
                                                               "AUDIT_WRITE",
                                                               "AUDIT_CONTROL",
                                                               "SETFCAP",
                                                               "MAC_OVERRIDE",
                                                               "MAC_ADMIN",
                                                               "SYSLOG",
                                                               "WAKE_ALARM",
                                                               "BLOCK_SUSPEND",
                                                               "AUDIT_READ",
                                                               "PERFMON",
                                                               "BPF",
                                                               "CHECKPOINT_RESTORE"};
static_assert(kCapabilityNames[CAP_SYS_ADMIN] == "SYS_ADMIN" && kCapabilityNames[CAP_CHECKPOINT_RESTORE] != "");

std::string ids_text(const std::array<std::uint32_t, 4>& ids) {
  return fmt::format("{}/{}/{}/{}", ids[0], ids[1], ids[2], ids[3]);
}

// Composes the calls of restore_credentials(); follows what the thread has at each step.
class Plan {
 public:
  Plan(const Credentials& wanted, const Credentials& inherited, Batch& batch, BatchChecks& checks)
      : wanted_(wanted), now_(inherited), batch_(batch), checks_(checks) {}

  void hold_capabilities();
  void set_groups();
  void set_gids();
  void set_uids();
  void set_inheritable();
  void drop_bounding();
  void set_ambient();
  void set_securebits();
  void set_capabilities();

 private:
  bool may(unsigned capability) const { return (now_.effective & bit(capability)) != 0; }
  void prctl(std::string what, std::string needs, int option, std::uint64_t a, std::uint64_t b = 0) {
    checks_.add(batch_.call(SYS_prctl, option, a, b, 0, 0), std::move(what), std::move(needs));
  }
  void set_three(long nr, const std::array<std::uint32_t, 4>& from, const std::array<std::uint32_t, 4>& to,
                 std::string what, std::string needs);
  void set_filesystem_id(long nr, std::uint32_t id, std::string what, std::string needs);
  void capset(std::uint64_t effective, std::uint64_t permitted, std::uint64_t inheritable, std::string what);

  const Credentials& wanted_;
  Credentials now_;
  Batch& batch_;
  BatchChecks& checks_;
};

// Without this, the kernel would clear capabilities when the user id leaves 0.
void Plan::hold_capabilities() {
  if (wanted_.uids == now_.uids || now_.permitted == 0) return;
  if (may(CAP_SETPCAP)) {
    now_.securebits |= SECBIT_NO_SETUID_FIXUP;
    prctl("holding capabilities over the change of user", "CAP_SETPCAP", PR_SET_SECUREBITS, now_.securebits);
  } else {
    now_.securebits |= SECBIT_KEEP_CAPS;
    prctl("holding capabilities over the change of user", {}, PR_SET_KEEPCAPS, 1);
  }
}

void Plan::set_groups() {
  if (wanted_.groups == now_.groups) return;
  const auto groups = batch_.array<std::uint32_t>(std::max<std::size_t>(wanted_.groups.size(), 1));
  std::ranges::copy(wanted_.groups, groups.local);
  const std::size_t index = batch_.call(SYS_setgroups, wanted_.groups.size(), groups);
  checks_.add(index, "setting the supplementary groups", "CAP_SETGID");
}

void Plan::set_three(long nr, const std::array<std::uint32_t, 4>& from, const std::array<std::uint32_t, 4>& to,
                     std::string what, std::string needs) {
  auto value = [&](std::size_t i) { return from[i] == to[i] ? kNoId : to[i]; };
  if (std::equal(from.begin(), from.begin() + 3, to.begin())) return;
  checks_.add(batch_.call(nr, value(0), value(1), value(2)), std::move(what), std::move(needs));
}

void Plan::set_filesystem_id(long nr, std::uint32_t id, std::string what, std::string needs) {
  batch_.call(nr, id);
  checks_.add_equal(batch_.call(nr, kNoId), id, std::move(what), std::move(needs));
}

void Plan::set_gids() {
  if (wanted_.gids == now_.gids) return;
  const std::string what = "setting the group ids " + ids_text(wanted_.gids);
  set_three(SYS_setresgid, now_.gids, wanted_.gids, what, "CAP_SETGID");
  // setresgid sets the file system's id to the effective one.
  set_filesystem_id(SYS_setfsgid, wanted_.gids[3], what, "CAP_SETGID");
}

void Plan::set_uids() {
  if (wanted_.uids == now_.uids) return;
  const std::string what = "setting the user ids " + ids_text(wanted_.uids);
  set_three(SYS_setresuid, now_.uids, wanted_.uids, what, "CAP_SETUID");
  set_filesystem_id(SYS_setfsuid, wanted_.uids[3], what, "CAP_SETUID");
  if ((now_.securebits & SECBIT_NO_SETUID_FIXUP) == 0 && wanted_.uids[1] != 0) now_.effective = 0;
}

void Plan::capset(std::uint64_t effective, std::uint64_t permitted, std::uint64_t inheritable, std::string what) {
  auto low = [](std::uint64_t set) { return static_cast<std::uint32_t>(set); };
  auto high = [](std::uint64_t set) { return static_cast<std::uint32_t>(set >> 32); };
  const auto header = batch_.put(CapabilityHeader{});
  const auto data = batch_.put(CapabilityData{low(effective), low(permitted), low(inheritable),  //
                                              high(effective), high(permitted), high(inheritable)});
  checks_.add(batch_.call(SYS_capset, header, data), std::move(what), "CAP_SETPCAP");
  now_.effective = effective;
  now_.permitted = permitted;
  now_.inheritable = inheritable;
}

// Before the bounding set shrinks, which bounds what can be added to the inheritable set.
void Plan::set_inheritable() {
  const bool lost_effective = now_.effective == 0 && now_.permitted != 0 && wanted_.ambient != 0;
  if (wanted_.inheritable == now_.inheritable && !lost_effective) return;
  capset(now_.permitted, now_.permitted, wanted_.inheritable, "setting the inheritable capabilities");
}

void Plan::drop_bounding() {
  for (unsigned capability = 0; capability < 64; ++capability) {
    if ((now_.bounding & ~wanted_.bounding & bit(capability)) == 0) continue;
    prctl("dropping " + capability_names(bit(capability)) + " from the bounding set", "CAP_SETPCAP", PR_CAPBSET_DROP,
          capability);
  }
}

void Plan::set_ambient() {
  if ((now_.ambient & ~wanted_.ambient) != 0) {
    prctl("clearing the ambient capabilities", {}, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
    now_.ambient = 0;
  }
  for (unsigned capability = 0; capability < 64; ++capability) {
    if ((wanted_.ambient & ~now_.ambient & bit(capability)) == 0) continue;
    prctl("raising ambient " + capability_names(bit(capability)), "SECBIT_NO_CAP_AMBIENT_RAISE to be off",
          PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability);
  }
}

void Plan::set_securebits() {
  if (wanted_.securebits == now_.securebits) return;
  if (((wanted_.securebits ^ now_.securebits) & ~std::uint32_t{SECBIT_KEEP_CAPS}) == 0) {
    prctl("setting 'keep capabilities'", {}, PR_SET_KEEPCAPS, (wanted_.securebits & SECBIT_KEEP_CAPS) != 0 ? 1 : 0);
  } else {
    prctl("setting the securebits", "CAP_SETPCAP", PR_SET_SECUREBITS, wanted_.securebits);
  }
}

void Plan::set_capabilities() {
  if (wanted_.effective == now_.effective && wanted_.permitted == now_.permitted &&
      wanted_.inheritable == now_.inheritable)
    return;
  capset(wanted_.effective, wanted_.permitted, wanted_.inheritable, "setting the capabilities");
}

Error refused(std::string what, std::string help) {
  return Error(Errc::kRefused, "the image asks for " + what + ", beyond the rights of its owner")
      .with_help(std::move(help));
}

}  // namespace

std::string capability_names(std::uint64_t set) {
  std::string names;
  for (unsigned capability = 0; capability < 64; ++capability) {
    if ((set & bit(capability)) == 0) continue;
    if (!names.empty()) names += ", ";
    names += capability < kCapabilityNames.size() ? fmt::format("CAP_{}", kCapabilityNames[capability])
                                                  : fmt::format("capability {}", capability);
  }
  return names;
}

Credentials credentials_from_status(const kernel::ProcStatus& status, std::uint32_t securebits) {
  auto four = [](const kernel::ProcStatus::Ids& ids) {
    return std::array{ids.real, ids.effective, ids.saved, ids.filesystem};
  };
  Credentials credentials{.uids = four(status.uid),
                          .gids = four(status.gid),
                          .groups = status.groups,
                          .inheritable = status.cap_inheritable,
                          .permitted = status.cap_permitted,
                          .effective = status.cap_effective,
                          .bounding = status.cap_bounding,
                          .ambient = status.cap_ambient,
                          .securebits = securebits};
  std::ranges::sort(credentials.groups);
  return credentials;
}

const Credentials* CredentialsCache::find(const CredentialAnswer& answer) const {
  const auto it = std::ranges::find(known_, answer, [](const auto& entry) { return entry.first; });
  return it == known_.end() ? nullptr : &it->second;
}

const Credentials& CredentialsCache::insert(const CredentialAnswer& answer, Credentials credentials) {
  return known_.emplace_back(answer, std::move(credentials)).second;
}

CredentialsQuery::CredentialsQuery(Batch& batch) {
  STASIS_INVARIANT(batch.on_error() == Batch::OnError::kContinue);
  uids_ = batch.array<std::array<std::uint32_t, 3>>(1);
  gids_ = batch.array<std::array<std::uint32_t, 3>>(1);
  groups_ = batch.array<std::uint32_t>(CredentialAnswer::kMaxGroups);
  capabilities_ = batch.array<std::uint32_t>(CapabilityData{}.size());
  const auto header = batch.put(CapabilityHeader{});
  auto address = [](const auto& value, std::size_t i) { return value.remote + i * sizeof(std::uint32_t); };
  first_ = batch.call(SYS_getresuid, uids_, address(uids_, 1), address(uids_, 2));
  batch.call(SYS_getresgid, gids_, address(gids_, 1), address(gids_, 2));
  batch.call(SYS_setfsuid, kNoId);  // changes nothing, yields the present one
  batch.call(SYS_setfsgid, kNoId);
  batch.call(SYS_getgroups, CredentialAnswer::kMaxGroups, groups_);
  batch.call(SYS_capget, header, capabilities_);
  batch.call(SYS_prctl, PR_GET_SECUREBITS, 0, 0, 0, 0);
}

Result<CredentialAnswer> CredentialsQuery::answer(const Batch& batch) const {
  CredentialAnswer answer;
  STASIS_TRY(batch.check(first_, "getresuid"));
  STASIS_TRY(batch.check(first_ + 1, "getresgid"));
  std::ranges::copy(*uids_, answer.uids.begin());
  std::ranges::copy(*gids_, answer.gids.begin());
  answer.uids[3] = static_cast<std::uint32_t>(batch.result(first_ + 2));
  answer.gids[3] = static_cast<std::uint32_t>(batch.result(first_ + 3));
  answer.group_count = batch.result(first_ + 4);
  std::copy_n(groups_.local, answer.groups.size(), answer.groups.begin());
  STASIS_TRY(batch.check(first_ + 5, "capget"));
  std::copy_n(capabilities_.local, answer.capabilities.size(), answer.capabilities.begin());
  answer.securebits = static_cast<std::uint32_t>(STASIS_TRY(batch.check(first_ + 6, "prctl(PR_GET_SECUREBITS)")));
  return answer;
}

Result<Credentials> CredentialsQuery::take(const Batch& batch, const kernel::ProcDir& proc, HostPid tid,
                                           CredentialsCache& cache, const kernel::ProcStatus* known) const {
  const CredentialAnswer mine = STASIS_TRY(answer(batch));
  const bool told_all = mine.group_count >= 0;
  if (told_all) {
    if (const Credentials* same = cache.find(mine)) return *same;
  }
  Credentials credentials =
      credentials_from_status(known ? *known : STASIS_TRY(proc.thread_status(tid)), mine.securebits);
  if (told_all) cache.insert(mine, credentials);
  return credentials;
}

Result<Setgroups> read_setgroups(const kernel::ProcDir& proc) {
  const std::string text = STASIS_TRY(proc.read("setgroups"));
  return text.starts_with("allow") ? Setgroups::kAllowed : Setgroups::kDenied;
}

Result<void> restore_credentials(const Credentials& wanted, const Credentials& inherited, Setgroups setgroups,
                                 Batch& batch, BatchChecks& checks) {
  if (wanted == inherited) return {};
  const std::uint64_t held = wanted.permitted | wanted.effective | wanted.ambient;
  if (const std::uint64_t missing = held & ~inherited.permitted; missing != 0) {
    return Error(Errc::kMissingCapability,
                 "the program held capabilities that are not ours to give: " + capability_names(missing))
        .with_help("restart with these capabilities");
  }
  // To be in more groups than before is borne where it can't be helped; to lack one is not.
  const bool may_set_groups = setgroups == Setgroups::kAllowed && (inherited.effective & bit(CAP_SETGID)) != 0;
  if (!may_set_groups && !std::ranges::includes(inherited.groups, wanted.groups)) {
    return Error(Errc::kMissingCapability, "the program was in groups that the caller is not in")
        .with_help("needs CAP_SETGID, or a caller that is in the same groups");
  }
  if (!batch.has_room(90, wanted.groups.size() * sizeof(std::uint32_t) + 256))
    return Error(Errc::kOverflow, "too many supplementary groups for one batch");
  Plan plan(wanted, inherited, batch, checks);
  plan.hold_capabilities();
  if (may_set_groups) plan.set_groups();
  plan.set_gids();
  plan.set_uids();
  plan.set_inheritable();
  plan.drop_bounding();
  plan.set_ambient();
  plan.set_securebits();
  plan.set_capabilities();
  return {};
}

Result<void> check_credentials(const Credentials& wanted, const Credentials& inherited, const ImageOwner& owner) {
  if (owner.trust == ImageTrust::kCaller) return {};
  const std::string help = "restart as the owner, or give the image to root";
  if (!std::ranges::all_of(wanted.uids, [&](std::uint32_t uid) { return uid == owner.uid; }))
    return refused("the user ids " + ids_text(wanted.uids), help);
  if (!std::ranges::all_of(wanted.gids, [&](std::uint32_t gid) { return owner.has_group(gid); }))
    return refused("the group ids " + ids_text(wanted.gids), help);
  for (const std::uint32_t group : wanted.groups) {
    if (!owner.has_group(group)) return refused(fmt::format("group {}", group), help);
  }
  if (owner.uid == 0) return {};
  const std::uint64_t held = wanted.permitted | wanted.effective | wanted.ambient | wanted.inheritable;
  if (held != 0) return refused(capability_names(held), help);
  // A user can't leave these behind for a set-user-id program, so neither may his image.
  if ((wanted.securebits & ~std::uint32_t{SECBIT_KEEP_CAPS}) != 0) return refused("securebits", help);
  if (const std::uint64_t lacking = inherited.bounding & owner.bounding & ~wanted.bounding; lacking != 0)
    return refused("a bounding set without " + capability_names(lacking), help);
  return {};
}

}  // namespace stasis
