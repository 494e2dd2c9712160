// SPDX-License-Identifier: Apache-2.0
#include "image/merge.h"

#include <fmt/core.h>

#include <map>
#include <memory>

#include "cli/command.h"
#include "cli/progress.h"
#include "resource/object_table.h"

namespace stasis::cli {
namespace {

struct Options {
  std::string image, output;
  std::optional<Codec> codec;
  bool json = false;
};

int merge(const Options& options) {
  install_cancellation();
  Progress progress("merged");
  const auto report = merge_image(options.image, options.output,
                                  {.codec = options.codec,
                                   .known = resource_records(),
                                   .progress = progress.hook(),
                                   .keep_going = until_cancelled});
  progress.finish();
  const Output output = options.json && options.output != "-" ? Output::kJson : Output::kText;
  if (!report) return report_error(report.error(), output);
  if (output == Output::kJson) {
    print_json({{"image", options.output},
                {"images", report->images},
                {"page_bytes", report->page_bytes},
                {"bytes", report->bytes}});
  }
  return 0;
}

}  // namespace

void add_merge(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* const verb = app.add_subcommand("merge", "Make one image of an incremental one and its parents");
  verb->add_option("IMAGE", options->image, "Newest image of the chain; - is standard input")->required();
  verb->add_option("-o,--output", options->output, "Image to write; - is standard output")->required();
  add_choice(*verb, "--compress", options->codec,
             {{"none", Codec::kNone}, {"lz4", Codec::kLz4}, {"zstd", Codec::kZstd}},
             "Compression of pages: none, lz4, zstd (default: as it was)");
  verb->add_flag("--json", options->json, "Print one JSON object");
  verb->callback([options, &status] { status = merge(*options); });
}

}  // namespace stasis::cli
