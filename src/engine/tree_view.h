// SPDX-License-Identifier: Apache-2.0
// What `stasis inspect` shows first: the processes of an image as a tree, with their descriptors and mappings, and who
// shares what with whom. (All records in full: view_image().)
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "stasis/image.h"

namespace stasis {

// Reads the structure records only. Text from the image shows no control characters. Errors: kBadImage.
Result<std::string> tree_text(const ImageReader& image);
Result<nlohmann::ordered_json> tree_json(const ImageReader& image);

}  // namespace stasis
