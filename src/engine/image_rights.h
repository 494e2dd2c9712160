// SPDX-License-Identifier: Apache-2.0
// Whose rights a restart has (rule 7 of the design): those of the image's owner. Root that restarts somebody else's
// image becomes that somebody before anything is made of what the image says.
#pragma once

#include <string>

#include "resource/credentials/image_owner.h"
#include "stasis/result.h"

namespace stasis {

// By the owner of what is read: a file, or the pipe or socket it comes through. `name` is for errors. Root's own image
// that others may write is refused.
Result<ImageOwner> owner_of_image(int fd, const std::string& name);

// This process goes on as the owner where it acts for somebody else; else nothing.
Result<void> become_owner(const ImageOwner& owner);

}  // namespace stasis
