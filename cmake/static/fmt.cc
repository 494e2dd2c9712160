// SPDX-License-Identifier: Apache-2.0
// fmt inside the command itself, where the system has it only as a shared library (which would bring a shared standard
// library along: a millisecond of linking at every start). These are the instantiations of fmt's own format.cc; where
// they do not fit the installed fmt, cmake/products.cmake finds that out and links the shared one.
#include <fmt/format-inl.h>

FMT_BEGIN_NAMESPACE
namespace detail {
template FMT_API dragonbox::decimal_fp<float> dragonbox::to_decimal(float x) noexcept;
template FMT_API dragonbox::decimal_fp<double> dragonbox::to_decimal(double x) noexcept;
template FMT_API locale_ref::locale_ref(const std::locale& loc);
template FMT_API std::locale locale_ref::get<std::locale>() const;
template FMT_API thousands_sep_result<char> thousands_sep_impl(locale_ref);
template FMT_API char decimal_point_impl(locale_ref);
template FMT_API void buffer<char>::append(const char*, const char*);
template FMT_API void vformat_to(buffer<char>&, string_view, basic_format_args<FMT_BUFFER_CONTEXT(char)>, locale_ref);
}  // namespace detail
FMT_END_NAMESPACE

#ifdef STASIS_TRY_FMT
#include <fmt/core.h>
int main(int argc, char**) { fmt::print("{} {:.3f} {:>8}\n", argc, 1.5 * argc, "x"); }
#endif
