// SPDX-License-Identifier: Apache-2.0
// Standard streams that the caller of a command had closed.
#pragma once

namespace stasis {

// To be called first in a program: gives each closed one of descriptors 0, 1, 2 to /dev/null, opened so that what is
// meant for it still fails with EBADF. Otherwise the next file gets that number, and messages are written into an
// image.
void fill_closed_streams() noexcept;
// Was descriptor 0, 1 or 2 closed then?
bool stream_was_closed(int number) noexcept;

}  // namespace stasis
