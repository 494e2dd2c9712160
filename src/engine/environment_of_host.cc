// SPDX-License-Identifier: Apache-2.0
#include "engine/environment_of_host.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "arch/x86_64/cpu.h"
#include "arch/x86_64/vdso.h"

namespace stasis {

Result<EnvironmentRecord> environment_of_host() {
  EnvironmentRecord environment = EnvironmentRecord::of_this_machine();
  const arch::CpuFeatures cpu = arch::cpu_features();
  environment.xcr0 = cpu.xcr0;
  for (const arch::CpuidAnswer& answer : cpu.cpuid) {
    environment.cpuid.push_back({.leaf = answer.leaf, .subleaf = answer.subleaf, .registers = answer.registers});
  }
  environment.vdso = STASIS_TRY(arch::own_vdso());
  if (auto id = arch::vdso_build_id(environment.vdso)) environment.vdso_build_id = std::move(*id);
  return environment;
}

Result<kernel::TimeShift> note_clocks(const kernel::ProcDir& program, EnvironmentRecord& environment) {
  const auto self = STASIS_TRY(kernel::ProcDir::open(HostPid(::getpid())));
  const kernel::TimeShift ours = STASIS_TRY(kernel::time_offsets(self));
  const kernel::TimeShift theirs = STASIS_TRY(kernel::time_offsets(program));
  environment.monotonic_offset_ns = theirs.monotonic_ns;
  environment.boottime_offset_ns = theirs.boottime_ns;
  return kernel::TimeShift{.monotonic_ns = theirs.monotonic_ns - ours.monotonic_ns,
                           .boottime_ns = theirs.boottime_ns - ours.boottime_ns};
}

Result<void> check_environment(const EnvironmentRecord& image) {
  const EnvironmentRecord here = STASIS_TRY(environment_of_host());
  if (image.arch != here.arch) return Error(Errc::kImageArchitecture, "the image was made on another architecture");
  if (image.page_size != here.page_size) {
    return Error(Errc::kImageArchitecture,
                 fmt::format("the image has pages of {} bytes, this machine {}", image.page_size, here.page_size));
  }
  arch::CpuFeatures cpu{.xcr0 = image.xcr0, .cpuid = {}};
  for (const CpuidLeaf& leaf : image.cpuid) {
    cpu.cpuid.push_back({.leaf = leaf.leaf, .subleaf = leaf.subleaf, .registers = leaf.registers});
  }
  const auto missing = arch::missing_features(cpu, arch::cpu_features());
  if (!missing.empty()) {
    return Error(Errc::kCpuFeature,
                 fmt::format("this CPU lacks what the program may be using: {}", fmt::join(missing, ", ")))
        .with_help("restart on a machine with the same or a newer CPU");
  }
  if (image.vdso != here.vdso) {
    return Error(Errc::kVdsoMismatch, fmt::format("the program runs on the vdso of kernel {}, this is {}",
                                                  image.kernel_release, here.kernel_release))
        .with_help("restart on the kernel build that the image was made on");
  }
  return {};
}

}  // namespace stasis
