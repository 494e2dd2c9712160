// SPDX-License-Identifier: Apache-2.0
#include <fmt/core.h>

#include <cstdio>
#include <memory>

#include "cli/command.h"
#include "cli/progress.h"
#include "engine/tree_view.h"
#include "image/verify.h"
#include "image/view.h"
#include "resource/object_table.h"

namespace stasis::cli {
namespace {

struct Options {
  std::string image;
  bool json = false;
  bool records = false;
};

std::string input_path(const std::string& image) { return image == "-" ? "/dev/stdin" : image; }

int inspect_tree(const Options& options) {
  const auto image = ImageReader::open(input_path(options.image), {.known = resource_records()});
  if (!image) return report_error(image.error(), options.json ? Output::kJson : Output::kText);
  if (options.json) {
    const auto json = tree_json(*image);
    if (!json) return report_error(json.error(), Output::kJson);
    print_json(*json);
    return 0;
  }
  const auto text = tree_text(*image);
  if (!text) return report_error(text.error(), Output::kText);
  std::fwrite(text->data(), 1, text->size(), stdout);
  return 0;
}

int inspect_records(const Options& options) {
  const ViewOptions view{.format = options.json ? ViewFormat::kJson : ViewFormat::kText,
                         .records = resource_records(),
                         .object_names = object_names()};
  const auto result = inspect_image(input_path(options.image), view,
                                    [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); });
  if (result) return 0;
  std::fflush(stdout);
  return report_error(result.error(), Output::kText);
}

nlohmann::ordered_json parents_json(const VerifyReport& report) {
  auto list = nlohmann::ordered_json::array();
  for (const VerifyReport::Parent& parent : report.parents) {
    list.push_back({{"path", parent.path}, {"hash", to_hex(parent.hash)}});
  }
  return list;
}

int verify(const Options& options) {
  install_cancellation();
  Progress progress("verified");
  const auto report = verify_image(
      input_path(options.image),
      {.threads = 0, .known = resource_records(), .progress = progress.hook(), .keep_going = until_cancelled});
  progress.finish();
  if (!report) return report_error(report.error(), options.json ? Output::kJson : Output::kText);
  if (options.json) {
    print_json({{"image", options.image},
                {"ok", true},
                {"records", report->records},
                {"chunks", report->chunks},
                {"page_bytes", report->page_bytes},
                {"hash", to_hex(report->image_hash)},
                {"parents", parents_json(*report)}});
  } else {
    say(stdout, "{}: ok, {} records, {} chunks, {} bytes of pages\n", options.image, report->records, report->chunks,
        report->page_bytes);
    for (const VerifyReport::Parent& parent : report->parents) say(stdout, "  on {}: ok\n", parent.path);
  }
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* const verb = app.add_subcommand("inspect", "Show what an image holds");
  verb->add_option("IMAGE", options->image, "Image to show; - is standard input")->required();
  verb->add_flag("--json", options->json, "As JSON");
  verb->add_flag("--records", options->records, "Every record of the image, in full");
  verb->callback(
      [options, &status] { status = options->records ? inspect_records(*options) : inspect_tree(*options); });
}

void add_verify(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* const verb = app.add_subcommand("verify", "Check every byte of an image");
  verb->add_option("IMAGE", options->image, "Image to check; - is standard input")->required();
  verb->add_flag("--json", options->json, "Print one JSON object");
  verb->callback([options, &status] { status = verify(*options); });
}

}  // namespace stasis::cli
