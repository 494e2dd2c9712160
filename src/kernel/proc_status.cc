// SPDX-License-Identifier: Apache-2.0
#include "kernel/proc_status.h"

#include <algorithm>
#include <limits>

#include "kernel/proc_text.h"

namespace stasis::kernel {
namespace {

using Setter = bool (*)(std::string_view value, ProcStatus& status);

bool hex(std::string_view value, std::uint64_t& mask) { return text::number(value, mask, 16); }

bool flag(std::string_view value, bool& result) {
  result = value == "1";
  return value == "0" || value == "1";
}

bool kilobytes(std::string_view value, std::optional<std::uint64_t>& bytes) {
  std::uint64_t kib = 0;
  if (!text::number(text::take_word(value), kib) || text::trim(value) != "kB") return false;
  if (kib > std::numeric_limits<std::uint64_t>::max() / 1024) return false;
  bytes = kib * 1024;
  return true;
}

template <class Number>
bool numbers(std::string_view value, std::vector<Number>& list) {
  list.clear();
  for (std::string_view word = text::take_word(value); !word.empty(); word = text::take_word(value)) {
    if (!text::number(word, list.emplace_back())) return false;
  }
  return true;
}

bool four(std::string_view value, ProcStatus::Ids& ids) {
  return text::number(text::take_word(value), ids.real) && text::number(text::take_word(value), ids.effective) &&
         text::number(text::take_word(value), ids.saved) && text::number(text::take_word(value), ids.filesystem) &&
         text::trim(value).empty();
}

// Groups of 32 bits in hexadecimal, the highest CPUs first: "ff,ffffffff".
bool cpu_mask(std::string_view value, std::vector<bool>& cpus) {
  std::vector<std::uint32_t> words;
  while (!value.empty()) {
    std::string_view word = value;
    if (!text::take_until(value, ',', word)) value = {};
    if (!text::number(word, words.emplace_back(), 16)) return false;
  }
  std::ranges::reverse(words);
  cpus.clear();
  for (const std::uint32_t word : words) {
    for (unsigned bit = 0; bit < 32; ++bit) cpus.push_back((word >> bit & 1) != 0);
  }
  while (!cpus.empty() && !cpus.back()) cpus.pop_back();
  return !words.empty();
}

bool signal_queue(std::string_view value, ProcStatus& s) {
  std::string_view queued;
  return text::take_until(value, '/', queued) && text::number(queued, s.sig_queued) && text::number(value, s.sig_limit);
}

struct Row {
  std::string_view key;
  bool required;
  Setter set;
};

// clang-format off
constexpr Row kRows[] = {
    {"Name", true, [](std::string_view v, ProcStatus& s) { s.name = v; return true; }},
    {"Umask", false, [](std::string_view v, ProcStatus& s) { return text::number(v, s.umask.emplace(), 8); }},
    {"State", true, [](std::string_view v, ProcStatus& s) { s.state = v.empty() ? '?' : v[0]; return !v.empty(); }},
    {"Tgid", true, [](std::string_view v, ProcStatus& s) { return text::number(v, s.tgid); }},
    {"Pid", true, [](std::string_view v, ProcStatus& s) { return text::number(v, s.pid); }},
    {"PPid", true, [](std::string_view v, ProcStatus& s) { return text::number(v, s.ppid); }},
    {"TracerPid", true, [](std::string_view v, ProcStatus& s) { return text::number(v, s.tracer_pid); }},
    {"Uid", true, [](std::string_view v, ProcStatus& s) { return four(v, s.uid); }},
    {"Gid", true, [](std::string_view v, ProcStatus& s) { return four(v, s.gid); }},
    {"FDSize", true, [](std::string_view v, ProcStatus& s) { return text::number(v, s.fd_size); }},
    {"Groups", true, [](std::string_view v, ProcStatus& s) { return numbers(v, s.groups); }},
    {"NStgid", false, [](std::string_view v, ProcStatus& s) { return numbers(v, s.ns_tgid); }},
    {"NSpid", false, [](std::string_view v, ProcStatus& s) { return numbers(v, s.ns_pid); }},
    {"NSpgid", false, [](std::string_view v, ProcStatus& s) { return numbers(v, s.ns_pgid); }},
    {"NSsid", false, [](std::string_view v, ProcStatus& s) { return numbers(v, s.ns_sid); }},
    {"VmSize", false, [](std::string_view v, ProcStatus& s) { return kilobytes(v, s.vm_size); }},
    {"VmRSS", false, [](std::string_view v, ProcStatus& s) { return kilobytes(v, s.vm_rss); }},
    {"CoreDumping", false, [](std::string_view v, ProcStatus& s) { return flag(v, s.core_dumping); }},
    {"THP_enabled", false, [](std::string_view v, ProcStatus& s) { return flag(v, s.thp_enabled.emplace()); }},
    {"Threads", true, [](std::string_view v, ProcStatus& s) { return text::number(v, s.threads); }},
    {"SigQ", true, signal_queue},
    {"SigPnd", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.sig_pending); }},
    {"ShdPnd", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.sig_shared_pending); }},
    {"SigBlk", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.sig_blocked); }},
    {"SigIgn", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.sig_ignored); }},
    {"SigCgt", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.sig_caught); }},
    {"CapInh", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.cap_inheritable); }},
    {"CapPrm", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.cap_permitted); }},
    {"CapEff", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.cap_effective); }},
    {"CapBnd", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.cap_bounding); }},
    {"CapAmb", true, [](std::string_view v, ProcStatus& s) { return hex(v, s.cap_ambient); }},
    {"NoNewPrivs", true, [](std::string_view v, ProcStatus& s) { return flag(v, s.no_new_privs); }},
    {"Seccomp", false, [](std::string_view v, ProcStatus& s) { return text::number(v, s.seccomp); }},
    {"Seccomp_filters", false,
     [](std::string_view v, ProcStatus& s) { return text::number(v, s.seccomp_filters.emplace()); }},
    {"Speculation_Store_Bypass", false,
     [](std::string_view v, ProcStatus& s) { s.speculation_store_bypass = v; return true; }},
    {"SpeculationIndirectBranch", false,
     [](std::string_view v, ProcStatus& s) { s.speculation_indirect_branch = v; return true; }},
    {"x86_Thread_features", false,
     [](std::string_view v, ProcStatus& s) { s.x86_thread_features = v; return true; }},
    {"Cpus_allowed", true, [](std::string_view v, ProcStatus& s) { return cpu_mask(v, s.cpus_allowed); }},
    {"Mems_allowed_list", false, [](std::string_view v, ProcStatus& s) { s.mems_allowed_list = v; return true; }},
};
// clang-format on

}  // namespace

Result<ProcStatus> parse_status(std::string_view text) {
  ProcStatus status;
  std::array<bool, std::size(kRows)> seen{};
  const auto* next = std::begin(kRows);  // the rows stand in the order of the kernel's lines
  while (!text.empty()) {
    const std::string_view line = text::take_line(text);
    std::string_view key, value;
    if (!text::key_value(line, key, value)) return text::malformed("status", line);
    const auto* row = next != std::end(kRows) && next->key == key ? next : std::ranges::find(kRows, key, &Row::key);
    if (row == std::end(kRows)) continue;
    next = row + 1;
    if (!row->set(value, status)) return text::malformed("status", line);
    seen[static_cast<std::size_t>(row - kRows)] = true;
  }
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (kRows[i].required && !seen[i]) return text::malformed("status", std::string(kRows[i].key) + " is missing");
  }
  return status;
}

}  // namespace stasis::kernel
