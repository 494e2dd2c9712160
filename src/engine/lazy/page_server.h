// SPDX-License-Identifier: Apache-2.0
// The page server of a lazy restart: a process that holds the image and the userfaultfds of a program that runs
// already. It gives each page that is touched, brings the others in meanwhile, and ends when all are there; nothing of
// it is left in the program then.
//
//   image file ── page server ── userfaultfd of each address space ── the program
//                      ∥
//                    guard (page_guard.h)
//
// What the program does with its memory meanwhile it hears as events, and the kernel lets no page through while one has
// not been heard (EAGAIN): whoever forks, moves, unmaps or empties memory waits until then. So after each success the
// server's idea of what is still to come (PendingPages) is true, and what was emptied once never gets pages of the
// image.
//
// If the image can't be read, or is not what it was, the program is killed, and it is said why.
#pragma once

#include <string>

#include "engine/lazy/page_line.h"
#include "stasis/image.h"

namespace stasis {

struct PageServing {
  const ImageReader& image;  // a file, with its parents
  std::string name;          // of the image
  PageLine line;             // to the restart
  bool keeps_stderr = false;
};

// What a process forked for it does. REQUIRES: one thread; the rights to enable userfaultfd events.
[[noreturn]] void be_page_server(PageServing serving);

}  // namespace stasis
