// SPDX-License-Identifier: Apache-2.0
// What the verbs share: exit statuses, how errors and reports are printed, cancellation by signal.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/restart_session.h"
#include "resource/checkpoint_context.h"
#include "stasis/image.h"
#include "stasis/result.h"

namespace stasis::cli {

// Adds a verb to the program: its options, and a callback that stores the exit status in `status`.
void add_checkpoint(CLI::App& app, int& status);
void add_restart(CLI::App& app, int& status);
void add_inspect(CLI::App& app, int& status);
void add_verify(CLI::App& app, int& status);
void add_check(CLI::App& app, int& status);
void add_merge(CLI::App& app, int& status);
void add_run(CLI::App& app, int& status);

// Prints. Failing to is no error here: flush_output() tells of standard output, and of standard error nobody can be
// told.
template <class... Arguments>
void say(std::FILE* stream, fmt::format_string<Arguments...> format, Arguments&&... arguments) {
  const std::string text = fmt::format(format, std::forward<Arguments>(arguments)...);
  (void)std::fwrite(text.data(), 1, text.size(), stream);
}

enum class Output { kText, kJson };

// Exit status of Stasis's own failures in a verb that otherwise ends with the program's status.
inline constexpr int kForegroundFailure = 125;

// One line on stderr (and, with kJson, one object on stdout); yields the exit status of the error's code.
int report_error(const Error& error, Output output);
void print_json(const nlohmann::ordered_json& object);

// Set by SIGINT, SIGTERM and SIGHUP once install_cancellation() was called; without SA_RESTART, so that waits end.
const std::atomic<bool>& cancelled();
// A KeepGoing: until then.
Result<void> until_cancelled(std::chrono::nanoseconds stalled);
void install_cancellation();

// An option that takes one of a few names. `value` must live as long as `verb`.
CLI::Validator one_of(const std::vector<std::string>& names);
template <class Enum>
CLI::Option* add_choice(CLI::App& verb, const std::string& name, Enum& value,
                        const std::vector<std::pair<std::string, Enum>>& choices, const std::string& description) {
  std::vector<std::string> names;
  for (const auto& [text, meaning] : choices) names.push_back(text);
  const auto take = [&value, choices](const std::string& given) {
    for (const auto& [text, meaning] : choices) {
      if (text == given) value = meaning;
    }
  };
  return verb.add_option_function<std::string>(name, take, description)->check(one_of(names));
}

CLI::Validator pid_validator();

// One line for a command line that is not understood; the exit status. `arguments`: those behind the program's name.
int report_usage_error(const CLI::ParseError& error, const std::vector<std::string>& arguments);

// What was printed must have been written: `status`, or that of an error where it could not be.
int flush_output(int status);

// "10s", "500ms", "2m", "1h30m", "1d", or a plain number of seconds.
std::chrono::nanoseconds parse_duration(const std::string& text);
// Checks that an option holds a duration.
CLI::Validator duration_validator();

// What the verbs that save can be told about it.
struct SavingOptions {
  Codec codec = Codec::kNone;
  CheckpointPolicy policy;
};
void add_saving_options(CLI::App& verb, SavingOptions& options);

// --files
void add_file_policy(CLI::App& verb, FilePolicy& policy);

// The exit status of a program that ended so; one that was killed by a signal takes us with it, so that a caller can't
// tell the difference.
int end_as(const ProgramEnd& end);

}  // namespace stasis::cli
